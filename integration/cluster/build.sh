#!/usr/bin/env bash
# Usage: build.sh OUT
# Compiles the cluster's programs into OUT (an absolute path), and prints a line per package.
# binaries.py starts it and keeps what it made.
set -euo pipefail
cd "$(dirname "$0")"

out=$1
containerd=v2.3.0 # Apart, without this go.mod: its cri-api differs from Kubernetes'.
kubernetes=$(sed -n 's#^\tk8s.io/kubernetes \(v[0-9.]*\).*#\1#p' go.mod)
minor=${kubernetes#v1.}
version=k8s.io/component-base/version
stamp="-X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}"
export GOFLAGS="-trimpath -buildvcs=false ${GOFLAGS:-}"

compile() { go build -v -ldflags "-s -w $stamp" "$@"; }

compile -tags=providerless -o "$out/" tool
mv "$out/server" "$out/etcd"
(cd coredns && compile -o "$out/coredns" .) # Apart as well.
for tool in containerd containerd-shim-runc-v2 ctr; do
    GOBIN=$out go install -v -ldflags "-s -w" "github.com/containerd/containerd/v2/cmd/$tool@$containerd"
done
CGO_ENABLED=0 compile -o "$out/pause" ./pause
