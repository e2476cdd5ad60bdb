#!/bin/sh
# One node: containerd and the kubelet, in a mount namespace of their own. Started by
# cluster.sh; $NODE is its number.
set -eu
here=$PWD/state/node-$NODE
mkdir -p "$here/cni/conf" "$here/containerd" "$here/kubelet" "$here/log"
# They write to fixed paths below these; with memory in their place nothing is left there.
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /var/lib/kubelet
mount --bind "$here/kubelet" /var/lib/kubelet
mount --make-shared /var/lib/kubelet

cat >"$here/cni/conf/10-pods.conflist" <<END
{
  "cniVersion": "0.4.0", "name": "pods",
  "plugins": [{
    "type": "ptp",
    "ipam": {
      "type": "host-local", "dataDir": "$here/cni/state",
      "ranges": [[{ "subnet": "10.244.$NODE.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }]
    }
  }]
}
END
cat >"$here/containerd.toml" <<END
version = 2
root = "$here/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$here/cni/conf"
END
containerd --config "$here/containerd.toml" &
tries=0
until ctr -a /run/containerd.sock version >/dev/null 2>&1; do
	tries=$((tries + 1))
	[ $tries -lt 60 ] || { echo "containerd does not start" >&2; exit 1; }
	sleep 0.5
done
for archive in images/*.tar "$CACHE"/images/*.tar; do ctr -a /run/containerd.sock -n k8s.io images import "$archive"; done

cat >"$here/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 192.168.231.$NODE
healthzPort: 0
authentication: { anonymous: { enabled: true }, webhook: { enabled: false } }
authorization: { mode: AlwaysAllow } # nobody else is on this network
containerRuntimeEndpoint: unix:///run/containerd.sock
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
oomScoreAdj: 0
resolvConf: ""
podLogsDir: $here/log
syncFrequency: 5s # how soon a changed Secret or ConfigMap is in its files; 1m by default
# The disk of this machine is not the cluster's.
imageGCHighThresholdPercent: 100
evictionHard: { memory.available: "0%", nodefs.available: "0%", imagefs.available: "0%", nodefs.inodesFree: "0%" }
END
exec kubelet --config "$here/kubelet.yaml" --kubeconfig "$KUBECONFIG" --hostname-override "node-$NODE" \
	--node-ip "192.168.231.$NODE" --root-dir /var/lib/kubelet --cert-dir "$here/pki"
