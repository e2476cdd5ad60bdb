#!/bin/sh
# Checks the configurations, manifests and rules in this directory with the
# programs that read them.
set -eu
cd "$(dirname "$0")"
. ./need.sh

PATH=$PATH:/usr/sbin
need openssl:openssl prosody:prosody ejabberdctl:ejabberd promtool:prometheus systemd-analyze:systemd nginx:nginx-light haproxy:haproxy lua5.4:lua5.4 fail2ban-regex:fail2ban
cd check
go vet ./...
exec go test -count=1 ./...
