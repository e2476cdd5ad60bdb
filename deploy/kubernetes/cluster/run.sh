#!/bin/sh
# Runs a Kubernetes cluster on this machine, and the tests of deploy/e2e/kubernetes_test.go
# in it: deploy/kubernetes/cluster/run.sh [COMMAND…]
#
# With a command, such as sh, that one runs in place of the tests. kubectl is in its PATH.
# NODES is the number of nodes. Without any, the API server checks the manifests, and
# nothing runs.
#
# For Debian 12, as root. The programs of Kubernetes are built from its Go modules, and
# the images of the servers from Debian packages; both stay in the cache directory of the
# user. The first run takes half an hour on two cores, most of it to build Kubernetes.
#
# The cluster has namespaces of its own for its network, mounts and processes. When
# process 1 in there ends, so do all others, and interfaces, iptables rules and mounts are
# gone. What the kernel keeps for the whole machine, cgroups and files, is removed below.
set -eu
cd "$(dirname "$0")"
here=$PWD
. ../../need.sh

PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || { echo "the cluster needs root" >&2; exit 1; }
NODES=${NODES:-0}
need etcd:etcd-server ip:iproute2 openssl:openssl unshare:util-linux
tests=KubernetesManifests programs="kube-apiserver kubectl"
if [ "$NODES" != 0 ]; then
	need containerd:containerd runc:runc iptables:iptables buildah:buildah debootstrap:debootstrap /usr/lib/cni/ptp:containernetworking-plugins
	tests=Kubernetes programs="$programs kube-controller-manager kube-scheduler kube-proxy kubelet"
fi

version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/xmppgate/kubernetes
bin=$cache/$version
mkdir -p "$bin" "$cache/images"
export CGO_ENABLED=0

step() { echo "== $*"; }

minor=${version#v1.}
for program in $programs; do
	[ -x "$bin/$program" ] && continue
	step "build $program $version"
	go build -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=${minor%%.*}" \
		-o "$bin/$program.new" "k8s.io/kubernetes/cmd/$program"
	mv "$bin/$program.new" "$bin/$program"
done

work=$(mktemp -d)
cleanup() {
	status=$?
	# Cgroups of the containers. One with a process in it, of another containerd, stays.
	find /sys/fs/cgroup -depth -type d -path '*/k8s.io*' -exec rmdir {} + 2>/dev/null || :
	umount "$work/store/overlay" 2>/dev/null || :
	rm -rf "$work"
	exit $status
}
trap cleanup EXIT
trap 'exit 1' INT TERM

[ "$NODES" = 0 ] || . ./images.sh

step "definitions of Gateway API and of the Prometheus Operator"
module() { go mod download -json "$1" | sed -n 's/.*"Dir": "\(.*\)",/\1/p'; }
mkdir "$work/crds"
cp "$(module sigs.k8s.io/gateway-api@v1.4.0)"/config/crd/standard/*.yaml "$work/crds"
cp "$(module github.com/prometheus-operator/prometheus-operator@v0.91.0)"/example/prometheus-operator-crd/*_podmonitors.yaml \
	"$(module github.com/prometheus-operator/prometheus-operator@v0.91.0)"/example/prometheus-operator-crd/*_prometheusrules.yaml "$work/crds"

if [ $# = 0 ]; then
	step "build the tests"
	(cd ../../e2e && go test -c -tags kubernetes -o "$work/e2e.test" .)
	set -- sh -c 'cd "$0/../../e2e" && exec "$1/e2e.test" -test.v -test.timeout 30m -test.run "$2"' "$here" "$work" "$tests"
fi

step "start the cluster"
status=0
PATH=$bin:$PATH CACHE=$cache WORK=$work NODES=$NODES unshare --net --mount --pid --ipc --uts --fork --kill-child --mount-proc \
	sh "$here/cluster.sh" "$@" || status=$?
exit $status
