#!/bin/sh
# Builds the image from the real Dockerfile, without a registry, and runs it.
#
# Local stand-ins take the place of the two base images: the Go of this machine
# on top of a static busybox, and an empty image with the user of distroless.
# The script works as root in a container that may not use namespaces freely:
# chroot isolation to build, host network and cgroupfs to run.
set -eu
cd "$(dirname "$0")/.."
. deploy/need.sh

PATH=$PATH:/usr/sbin
need buildah:buildah podman:podman runc:runc busybox:busybox-static curl:curl
goroot=$(go env GOROOT)
buildah=$(command -v buildah) # before there is a function by that name

work=$(mktemp -d)
# One store for both tools, under $work; vfs is slow and works everywhere.
for driver in overlay vfs; do
	store="--root $work/store --runroot $work/run --storage-driver $driver"
	command buildah $store from scratch >"$work/log" 2>&1 && break
	rm -rf "$work/store" "$work/run"
done
buildah() { command buildah $store "$@"; }
podman() { command podman $store --runtime runc --cgroup-manager=cgroupfs "$@"; }
cleanup() {
	status=$?
	podman rm -af >"$work/log" 2>&1 || cat "$work/log"
	umount "$work/store/overlay" 2>/dev/null || :
	rm -rf "$work"
	exit $status
}
trap cleanup EXIT
trap 'exit 1' INT TERM

step() { echo "== $*"; }

step "stand-ins for the base images"
busybox=$(command -v busybox)
if ldd "$busybox" >/dev/null 2>&1; then
	echo "$busybox is not static: install busybox-static" >&2
	exit 1
fi
mkdir -p "$work/go/bin" "$work/go/etc/ssl/certs" "$work/go/tmp" "$work/go/root" "$work/run0/etc/ssl/certs"
cp "$busybox" "$work/go/bin/busybox"
for tool in sh env cat; do ln -s busybox "$work/go/bin/$tool"; done
echo root:x:0:0:root:/root:/bin/sh >"$work/go/etc/passwd"
echo nonroot:x:65532:65532:nonroot:/:/none >"$work/run0/etc/passwd"
for base in go run0; do cp /etc/ssl/certs/ca-certificates.crt "$work/$base/etc/ssl/certs/"; done

image=$(buildah from scratch)
buildah add -q "$image" "$work/go" /
buildah add -q "$image" "$goroot" /usr/local/go
# The build downloads modules as this machine does.
buildah config --env PATH=/usr/local/go/bin:/bin --env GOPATH=/go --env HOME=/root --env GOTOOLCHAIN=local \
	--env "GOPROXY=$(go env GOPROXY)" --env "GOSUMDB=$(go env GOSUMDB)" "$image"
buildah commit -q --disable-compression "$image" localhost/stand-in/golang:1.26
buildah rm "$image" >/dev/null
image=$(buildah from scratch)
buildah add -q "$image" "$work/run0" /
buildah commit -q "$image" localhost/stand-in/static:nonroot
buildah rm "$image" >/dev/null

step "build"
# deploy/image.sh finds a Docker client without an engine, and uses the store of
# this script.
mkdir "$work/bin"
for tool in docker podman; do printf '#!/bin/sh\nexit 1\n' >"$work/bin/$tool"; done
printf '#!/bin/sh\nexec %s %s "$@"\n' "$buildah" "$store" >"$work/bin/buildah"
chmod +x "$work/bin"/*
revision=0123456789abcdef0123456789abcdef01234567
PATH=$work/bin:$PATH VERSION=v0.0.0-test REVISION=$revision SOURCE=https://example.org/test IMAGE=localhost/xmppgate:test deploy/image.sh \
	--isolation chroot --pull-never --layers=false \
	--build-arg GO_IMAGE=localhost/stand-in/golang:1.26 --build-arg RUN_IMAGE=localhost/stand-in/static:nonroot >"$work/build.log" 2>&1 || {
	cat "$work/build.log"
	exit 1
}
podman images --format '{{.Repository}}:{{.Tag}} {{.Size}}' localhost/xmppgate

# What the orchestrators are told to do with it: read-only, no capabilities.
run() {
	# No health checks by timer: podman would ask systemd for the timer.
	podman run --no-healthcheck --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --network=host --read-only \
		--cap-drop=all --security-opt no-new-privileges "$@"
}

step "version, check-config, no demo, not root"
version=$(run --rm localhost/xmppgate:test version)
case $version in
*"v0.0.0-test (0123456789ab,"*) echo "$version" ;;
*) echo "version: $version" >&2; exit 1 ;;
esac
label() { podman image inspect --format "{{index .Labels \"org.opencontainers.image.$1\"}}" localhost/xmppgate:test; }
labels="$(label version) $(label revision) $(label source)"
[ "$labels" = "v0.0.0-test $revision https://example.org/test" ] || { echo "labels: $labels" >&2; exit 1; }
if run --rm localhost/xmppgate:test demo --help 2>"$work/log"; then
	echo "the demo is in the image" >&2
	exit 1
fi
run --rm localhost/xmppgate:test check-config
podman image inspect --format '{{.User}} {{json .Config.Entrypoint}} {{json .Config.Healthcheck.Test}}' localhost/xmppgate:test >"$work/config"
cat "$work/config"
grep -Fqx '65532:65532 ["/xmppgate"] ["CMD","/xmppgate","healthcheck"]' "$work/config"

step "start, health check, drain, stop"
# Host network, so the ports must be free: outside the range of outgoing ones.
public=127.0.0.1:25290 admin=127.0.0.1:29280
run -d --name gateway -e XMPPGATE_LISTEN=$public -e XMPPGATE_ADMIN_LISTEN=$admin -e XMPPGATE_UPSTREAM=tcp://127.0.0.1:9 \
	localhost/xmppgate:test >/dev/null
tries=0
until podman exec gateway /xmppgate healthcheck 2>"$work/log"; do
	tries=$((tries + 1))
	if [ $tries -gt 50 ]; then
		cat "$work/log"
		podman logs gateway
		exit 1
	fi
	sleep 0.1
done
curl -fsS "http://$admin/metrics" | grep '^xmppgate_build_info'
# The server is not there: healthy, but not ready.
[ "$(curl -s -o /dev/null -w '%{http_code}' "http://$admin/readyz")" = 503 ]
podman exec gateway /xmppgate drain
podman stop -t 10 gateway >/dev/null
code=$(podman inspect --format '{{.State.ExitCode}}' gateway)
[ "$code" = 0 ] || {
	podman logs gateway
	echo "exit code $code" >&2
	exit 1
}
step "the image works"
