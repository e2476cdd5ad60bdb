#!/bin/sh
# Tests what "make release" builds: deploy/test-release.sh [-tags roots].
set -eu
cd "$(dirname "$0")"
. ./need.sh

PATH=$PATH:/usr/sbin
need rpm:rpm busybox:busybox-static systemd-analyze:systemd debootstrap:debootstrap podman:podman runc:runc prosody:prosody
cd release
go vet "$@" ./...
exec go test -count=1 "$@" ./...
