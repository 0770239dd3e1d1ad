"""What is written on a machine's disk before its first boot: file name → content."""

import json
from typing import Any, Final

from integration.cluster import archive
from integration.cluster.network import CONTROL_PLANE, Lan
from integration.cluster.pki import Authority

HERE: Final = "/var/lib/cluster"
CONTAINERD: Final = """\
version = 3
# They need tools that Debian's images lack, and nobody here needs them.
disabled_plugins = [
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.differ.v1.erofs",
  "io.containerd.internal.v1.opt",
]
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = "linux/ARCHITECTURE"
  snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "localhost/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true # Machines may lack CAP_SYS_RESOURCE.
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "/var/lib/cluster/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    SystemdCgroup = false
"""
COREFILE: Final = """\
.:53 {
    errors
    kubernetes cluster.local in-addr.arpa {
        kubeconfig admin.kubeconfig
        pods insecure
    }
    template ANY ANY {
        rcode NXDOMAIN
    }
}
"""


def server(lan: Lan) -> str:
    """Give the API server's address."""
    return f"https://{lan.address(CONTROL_PLANE)}:6443"


def control_plane(lan: Lan, authority: Authority) -> dict[str, str]:
    """Configure the API server, its helpers and the DNS."""
    users = {
        "admin": ("admin", "system:masters"),
        "controllers": ("system:kube-controller-manager", None),
        "scheduler": ("system:kube-scheduler", None),
    }
    pairs = {name: authority.issue(user, group=group) for name, (user, group) in users.items()}
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    serving = authority.issue(
        "kube-apiserver",
        lan.address(CONTROL_PLANE),
        str(lan.services[1]),
        *names,
        f"{names[-1]}.cluster.local",
    )
    return {
        **{f"{name}.kubeconfig": authority.kubeconfig(server(lan), pairs[name]) for name in pairs},
        "Corefile": COREFILE,
        "ca.crt": authority.certificate,
        "apiserver.crt": serving.certificate,
        "apiserver.key": serving.key,
        "admin.crt": pairs["admin"].certificate,
        "admin.key": pairs["admin"].key,
        "sa.key": authority.issue("service-accounts").key,
        "resolv.conf": "",
    }


def node(lan: Lan, name: str, authority: Authority) -> dict[str, str]:
    """Configure containerd, kubelet and kube-proxy."""
    kubelet = authority.issue(f"system:node:{name}", name, lan.address(name), group="system:nodes")
    proxy = authority.issue("system:kube-proxy")
    return {
        "containerd.toml": CONTAINERD.replace("ARCHITECTURE", archive.architecture()),
        "cni/10-pods.conflist": json.dumps(_cni(lan, name)),
        "kubelet.yaml": json.dumps(_kubelet(lan, name), indent=1),
        "kube-proxy.yaml": json.dumps(_proxy(lan), indent=1),
        "kubelet.kubeconfig": authority.kubeconfig(server(lan), kubelet),
        "proxy.kubeconfig": authority.kubeconfig(server(lan), proxy),
        "kubelet.crt": kubelet.certificate,
        "kubelet.key": kubelet.key,
        "ca.crt": authority.certificate,
        "resolv.conf": "",
    }


def _cni(lan: Lan, name: str) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": str(lan.pods(name))}]],
        "dataDir": "/run/cni-ipam",
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    # No bridge on the nodes: a pod's own node would answer it without going through conntrack.
    cables = {"type": "ptp", "ipMasq": False, "ipam": addresses}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [cables, ports]}


def _kubelet(lan: Lan, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{lan.name}/{name}",
        "enforceNodeAllocatable": [],
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{HERE}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{HERE}/kubelet.crt",
        "tlsPrivateKeyFile": f"{HERE}/kubelet.key",
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,  # A host's disk that is rather full costs no images.
        "readOnlyPort": 0,
        "healthzPort": 0,
        "resolvConf": "/etc/resolv.conf",
        "clusterDomain": "cluster.local",
        "clusterDNS": [lan.address(CONTROL_PLANE)],
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 10,
        "serializeImagePulls": False,
    }


def _proxy(lan: Lan) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": str(lan.all_pods),
        "detectLocalMode": "ClusterCIDR",
        "clientConnection": {"kubeconfig": f"{HERE}/proxy.kubeconfig"},
        # Not ours to set in a network namespace that is not the first one.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }
