#!/bin/sh
# Installs the peers that are measured and not there yet. For Debian 12.
set -eu
. "$(dirname "$0")/../need.sh"
need haproxy:haproxy nginx:nginx-light prosody:prosody ejabberdctl:ejabberd erl:erlang-base taskset:util-linux
