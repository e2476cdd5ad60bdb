#!/bin/sh
# Process 1 of the namespaces that run.sh makes: starts Kubernetes, runs a command, ends.
# $WORK has files of this run, $NODES is the number of nodes.
set -eu
here=$(dirname "$0")
mount --make-rprivate /
mount -t tmpfs tmpfs /run # locks of iptables
cd "$WORK"
mkdir -p logs state
# Kubernetes writes to these, and they belong to the whole machine.
for file in vm/overcommit_memory kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
	cat "/proc/sys/$file" >"state/$(basename $file)"
	mount --bind "state/$(basename $file)" "/proc/sys/$file"
done
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
# The nodes are addresses of one network that only exists here.
ip link add nodes type bridge
ip link set nodes up
for i in 1 $(seq 2 "$NODES"); do ip address add "192.168.231.$i/24" dev nodes; done
ip route add 10.96.0.0/16 dev nodes # Services: kube-proxy leads them elsewhere

openssl genrsa -out sa.key 2048 2>/dev/null
openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
token=$(openssl rand -hex 16)
echo "$token,admin,admin,system:masters" >tokens.csv
cat >kubeconfig <<END
apiVersion: v1
kind: Config
clusters: [{ name: test, cluster: { server: "https://192.168.231.1:6443", insecure-skip-tls-verify: true } }]
users: [{ name: admin, user: { token: $token } }]
contexts: [{ name: test, context: { cluster: test, user: admin } }]
current-context: test
END
export KUBECONFIG=$WORK/kubeconfig

# start NAME COMMAND… runs a program in the background.
start() {
	name=$1
	shift
	"$@" >"logs/$name" 2>&1 &
}
# await SECONDS COMMAND… waits until a command succeeds.
await() {
	left=$1
	shift
	until "$@" >logs/await 2>&1; do
		left=$((left - 1))
		if [ $left = 0 ]; then
			echo "does not succeed: $*" >&2
			cat logs/await >&2
			tail -n 20 logs/* >&2
			exit 1
		fi
		sleep 1
	done
}

start etcd etcd --data-dir state/etcd --unsafe-no-fsync --logger zap --log-level warn \
	--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
start kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --cert-dir state/apiserver \
	--bind-address 192.168.231.1 --advertise-address 192.168.231.1 --secure-port 6443 \
	--service-cluster-ip-range 10.96.0.0/16 --token-auth-file tokens.csv --authorization-mode Node,RBAC \
	--service-account-issuer https://kubernetes.default.svc --service-account-key-file sa.pub --service-account-signing-key-file sa.key
for i in $(seq "$NODES"); do NODE=$i start "node-$i" unshare --mount sh "$here/node.sh"; done
await 120 kubectl get --raw /readyz
if [ "$NODES" != 0 ]; then
	start kube-controller-manager kube-controller-manager --kubeconfig "$KUBECONFIG" --leader-elect=false --service-account-private-key-file sa.key
	start kube-scheduler kube-scheduler --kubeconfig "$KUBECONFIG" --leader-elect=false
	start kube-proxy kube-proxy --kubeconfig "$KUBECONFIG" --hostname-override node-1 --cluster-cidr 10.244.0.0/16 --proxy-mode iptables \
		--conntrack-max-per-core 0 --conntrack-min 0 --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0
	for i in $(seq "$NODES"); do await 180 kubectl wait --for condition=Ready "node/node-$i" --timeout 1s; done
fi
kubectl apply --server-side -f crds >logs/crds
[ "$NODES" = 0 ] || kubectl get nodes -o wide

status=0
"$@" || status=$?
[ $status = 0 ] || tail -n 15 logs/* >&2
exit $status
