#!/usr/bin/env bash
# Usage: tooling/setup.sh LOCK
# Brings .venv and the system packages to what LOCK says; returns at once when they are there.
set -euo pipefail
cd "$(dirname "$0")/.."

lock=$1
# A virtual environment holds absolute paths, so a checkout that moved needs a new one.
stamp=.venv/.stamp-$( (pwd; cat requirements*.lock) | sha256sum | cut -c1-64)

say() { echo "setup: $*" >&2; }

missing() { for tool; do command -v "$tool" >/dev/null || return 0; done; return 1; }

apt_install() {
    if [ "$(id -u)" != 0 ] || missing apt-get; then
        say "please install $* (on Debian: sudo apt-get install $*), then try again"
        exit 1
    fi
    say "apt-get install $*"
    local install=(apt-get install -qq --yes --no-install-recommends "$@") log
    export DEBIAN_FRONTEND=noninteractive
    # A fresh machine has no package lists, an old one has stale ones: both need an update.
    log=$("${install[@]}" 2>&1) || log=$(apt-get update -qq 2>&1 && "${install[@]}" 2>&1) || {
        say "apt-get could not install $*:"
        echo "$log" >&2
        exit 1
    }
}

# The test cluster's; its programs for root may not be on root's PATH.
cluster_lacks() {
    [ ! -e /usr/lib/cni/ptp ] || (
        PATH=$PATH:/usr/sbin
        missing runc iptables nft ip nsenter unshare mmdebstrap buildah
    )
}

if missing nix patchelf; then apt_install nix-bin patchelf; fi

# Only root can run it, and its tests say why they are skipped: to lack it stops nobody.
if [ "$lock" = requirements-dev.lock ] && [ "$(id -u)" = 0 ] && ! missing apt-get && cluster_lacks; then
    apt_install runc containernetworking-plugins iptables nftables iproute2 util-linux mmdebstrap buildah
fi

# The development lock is a superset of the other, so what it filled serves both.
if grep -qs -e "$lock" -e requirements-dev.lock "$stamp" && .venv/bin/python -c ''; then exit; fi

# Debian's own python3 cannot make virtual environments until python3-venv is there.
python3 -c 'import ensurepip' 2>/dev/null || apt_install python3 python3-venv
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    say "please put Python 3.11 or newer on PATH as python3, then try again"
    exit 1
}

say "virtual environment in .venv ($(python3 --version))"
python3 -m venv --clear .venv
say "packages from $lock"
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock"
# The lock holds the build backend too, so nothing unhashed is downloaded here.
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
echo "$lock" >"$stamp"
