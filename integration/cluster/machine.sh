#!/usr/bin/env bash
# Usage: machine.sh NAME ROLE DISK BINARIES ADDRESS SERVICES
# PID 1 of one machine, started by machines.py in new mount, network, PID, UTS and IPC namespaces.
# Builds the machine's file system, waits for its network, keeps its services running. Killing it is
# pulling the machine's plug.
#   /            throw-away overlay over the real machine's / (without what is mounted below)
#   /run /tmp    tmpfs: empty after every boot, like the overlay
#   /var /nix    DISK/var, DISK/nix: survive a reboot
set -euo pipefail

name=$1 role=$2 disk=$3 binaries=$4 address=$5 services=$6
read -r pid _ </proc/self/stat # Still the old /proc: our pid as the host sees it.

mount -t tmpfs -o mode=755 machine "$disk/mnt"
mkdir "$disk"/mnt/{upper,work,root}
new=$disk/mnt/root
mount -t overlay -o "lowerdir=/,upperdir=$disk/mnt/upper,workdir=$disk/mnt/work" machine "$new"
mount -t proc proc "$new/proc"
mount -t sysfs sysfs "$new/sys" # A new instance: it shows this network namespace.
mount --rbind /sys/fs/cgroup "$new/sys/fs/cgroup"
mount --rbind /dev "$new/dev"
mount -t tmpfs -o mode=755 tmpfs "$new/run"
mount -t tmpfs tmpfs "$new/tmp"
mkdir -p "$disk"/var/{lib,log,tmp,cache} "$disk/nix" "$new/nix" "$new/opt/cluster" "$new/run/old"
ln -sfn /run "$disk/var/run"
mount --bind "$disk/var" "$new/var"
mount --bind "$disk/nix" "$new/nix"
mount --bind -o ro "$binaries" "$new/opt/cluster"

# What a kubelet takes for its own machine's: its boot id (new at every boot) and the kernel
# settings that it overwrites. Copies, bound over the originals.
for file in random/boot_id panic panic_on_oops keys/root_maxkeys keys/root_maxbytes \
    ../vm/overcommit_memory ../vm/panic_on_oom; do
    copy=$new/run/sysctl/${file##*/}
    mkdir -p "${copy%/*}"
    cat "/proc/sys/kernel/${file/boot_id/uuid}" >"$copy"
    mount --bind "$copy" "$new/proc/sys/kernel/$file"
done

# A plain bind would keep, and hold, every mount of the host.
pivot_root "$new" "$new/run/old"
cd /
umount -l /run/old
rmdir /run/old
mount --make-rshared /

hostname "$name"
rm -f /etc/resolv.conf /etc/machine-id
cp /var/lib/cluster/resolv.conf /etc/resolv.conf
md5sum <<<"$name" | cut -c-32 >/etc/machine-id
echo "$pid"
read -r _ # machines.py has recorded us and plugged in the network; if it died, so do we.
exec </dev/null >&2
echo 1 >/proc/sys/net/ipv4/ip_forward

export PATH=/opt/cluster:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
service() { # LOGNAME COMMAND...
    local log=/var/log/$1.log
    shift
    while :; do
        "$@" >>"$log" 2>&1 || echo "$1: exit code $?" >>"$log"
        sleep 1
    done &
}
cd /var/lib/cluster
case $role in
control-plane)
    # No fsync: the host does not crash. Routing to endpoints: this machine has no kube-proxy.
    service etcd etcd --data-dir /var/lib/etcd --unsafe-no-fsync
    service kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
        --bind-address="$address" --advertise-address="$address" --secure-port=6443 \
        --tls-cert-file=apiserver.crt --tls-private-key-file=apiserver.key --client-ca-file=ca.crt \
        --kubelet-client-certificate=admin.crt --kubelet-client-key=admin.key \
        --kubelet-preferred-address-types=InternalIP --authorization-mode=Node,RBAC \
        --enable-admission-plugins=NodeRestriction --allow-privileged=true \
        --service-account-key-file=sa.key --service-account-signing-key-file=sa.key \
        --service-account-issuer=https://kubernetes.default.svc \
        --service-cluster-ip-range="$services" --enable-aggregator-routing=true
    # The usual 20 requests a second would delay the first service account by 6 s.
    service kube-controller-manager kube-controller-manager --kubeconfig=controllers.kubeconfig \
        --service-account-private-key-file=sa.key --root-ca-file=ca.crt --leader-elect=false \
        --use-service-account-credentials --bind-address=127.0.0.1 \
        --kube-api-qps=200 --kube-api-burst=300 \
        --node-monitor-period=2s --node-monitor-grace-period=16s
    service kube-scheduler kube-scheduler --kubeconfig=scheduler.kubeconfig \
        --leader-elect=false --bind-address=127.0.0.1
    service coredns coredns -conf Corefile
    ;;
node)
    service containerd containerd -c containerd.toml
    until [ -S /run/containerd/containerd.sock ]; do sleep 0.1; done
    service kubelet kubelet --config=kubelet.yaml --kubeconfig=kubelet.kubeconfig \
        --hostname-override="$name" --node-ip="$address" -v=2
    service kube-proxy kube-proxy --config=kube-proxy.yaml --hostname-override="$name"
    ;;
esac
while :; do wait || :; done # Also reaps the orphans that every init inherits.
