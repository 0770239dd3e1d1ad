#!/usr/bin/env bash
# build.sh OUT.tar
# Makes the agent's image as an OCI archive, from Debian packages and the lock, with the mirrors that
# apt and pip are configured with here. Needs root, mmdebstrap and Python 3.11.
# IMAGE (localhost/nodeagent:dev) names it; FRESH=1 asks Debian for newer packages;
# CACHE (~/.cache/nodeagent-test/image) keeps what does not depend on our code.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
suite=trixie
packages=python3,python3-venv,nix-bin,ca-certificates

say() { echo "image: $*" >&2; }
die() { say "$@"; exit 1; }

[ $# = 1 ] || die "usage: build.sh OUT.tar"
[ "$(id -u)" = 0 ] || die "it installs Debian packages below a directory: please run it as root"
command -v mmdebstrap >/dev/null || die "mmdebstrap is missing: apt-get install mmdebstrap"
# Mounts of our own, which end with us however we end.
[ -n "${UNSHARED:-}" ] || UNSHARED=1 exec unshare --mount --propagation private "${BASH_SOURCE[0]}" "$@"

out=$(realpath -m "$1")
image=${IMAGE:-localhost/nodeagent:dev}
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/nodeagent-test/image}
mkdir -p "$cache" "$(dirname "$out")"
exec 9>"$cache/lock"
flock 9
[ -z "${FRESH:-}" ] || rm -rf --one-file-system "$cache"/*-*

work=$(mktemp -d "$cache/work.XXXXXX")
entered=
# What is mounted inside is the machine's: nothing is removed before it is out of there.
leave() { [ -z "$entered" ] || umount --recursive --lazy "$entered" && entered=; }
trap 'leave && rm -rf --one-file-system "$work"' EXIT

key() { cat "$@" | sha256sum | cut -c1-16; }
pack() { python3 "$here/pack.py" "$@"; }

# Debian with everything that it takes to build; most of it does not travel.
make_debian() {
    local label suites repository_uri
    while IFS='|' read -r label repository_uri; do
        case $label in
        Debian) suites="$suite" ;;
        Debian-Security) suites="$suite-security" ;;
        esac
        echo "deb $repository_uri $suites main"
    done < <(apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        grep -E '^Debian(-Security)?\|' | sort -u) >"$work/sources"
    [ -s "$work/sources" ] || die "apt has no Debian mirror here: add one to its sources"
    say "Debian $suite with ${packages//,/, } (about a minute)"
    mmdebstrap --variant=apt --include="$packages" --dpkgopt=force-unsafe-io "$suite" \
        "$1" - <"$work/sources" >"$work/log" 2>&1 || {
        tail -n 20 "$work/log" >&2
        die "mmdebstrap failed"
    }
}

# What pip is configured with here, as variables; files and directories that it names come along.
pip_settings() {
    local name value path
    while IFS='=' read -r name value; do
        name=${name##*.} name=${name//-/_} value=${value//\'/}
        settings+=("PIP_${name^^}=$value")
        for path in $value; do
            [ "${path:0:1}" = / ] && [ -e "$path" ] && ! mountpoint -q "$1$path" || continue
            mkdir -p "$1${path%/*}"
            if [ -d "$path" ]; then mkdir -p "$1$path"; else : >"$1$path"; fi
            mount --bind -o ro "$path" "$1$path"
        done
    done < <(python3 -m pip config list 2>/dev/null)
}

# Runs a command in a root, with the network as it is here.
inside() {
    local root=$1 file
    shift
    mount --rbind "$root" "$root"
    entered=$root
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    for file in etc/resolv.conf etc/hosts; do
        [ ! -e "/$file" ] || { : >"$root/$file"; mount --bind -o ro "/$file" "$root/$file"; }
    done
    settings=(PATH=/usr/sbin:/usr/bin HOME=/tmp "TMPDIR=/tmp")
    pip_settings "$root"
    chroot "$root" /usr/bin/env -i "${settings[@]}" "$@"
    leave
}

# Puts a finished part under its name; what had that place under another key goes.
keep() {
    rm -rf --one-file-system "${2%-*}"-*
    mv "$1" "$2"
}

debian=$cache/debian-$(key <(declare -f make_debian; echo "$suite $packages"))
if [ ! -d "$debian" ]; then
    make_debian "$work/debian"
    keep "$work/debian" "$debian"
fi

system=$cache/system-$(key <(echo "${debian##*/}") "$here"/{contents,pack}.py)
if [ ! -d "$system" ]; then
    say "system: what the agent needs of it"
    python3 "$here/contents.py" "$debian" "$work/tree"
    # Its own Python compiles itself: the first proof that nothing is missing.
    chroot "$work/tree" /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash \
        /usr/lib/python3.13
    mkdir "$work/system"
    pack layer "$work/tree" "$work/system/system.tar.gz"
    keep "$work/system" "$system"
    rm -rf --one-file-system "$work/tree"
fi

dependencies=$cache/dependencies-$(
    key <(echo "${debian##*/}") "$here"/{install.sh,pack.py} "$repository/requirements.lock"
)
if [ ! -d "$dependencies" ]; then
    say "dependencies: requirements.lock"
    cp -a "$debian" "$work/dependencies"
    cp "$here/install.sh" "$repository/requirements.lock" "$work/dependencies/opt"
    inside "$work/dependencies" sh /opt/install.sh dependencies /opt/requirements.lock
    mkdir "$work/tree"
    (cd "$work/dependencies" && cp -a --parents opt/venv "$work/tree")
    pack layer "$work/tree" "$work/dependencies/dependencies.tar.gz"
    keep "$work/dependencies" "$dependencies"
fi

say "code: nodeagent"
mkdir -p "$dependencies/tmp"
mount -t tmpfs tmpfs "$dependencies/tmp"
mkdir "$dependencies/tmp/source"
cp -r "$repository"/{nodeagent,pyproject.toml} "$dependencies/tmp/source"
inside "$dependencies" sh /opt/install.sh code /tmp/source /tmp/out
pack layer "$dependencies/tmp/out" "$work/nodeagent.tar.gz"

version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$repository/nodeagent/__init__.py")
label=org.opencontainers.image
pack image "$work/image.tar" "$image" "$(chroot "$debian" dpkg --print-architecture)" \
    "$system/system.tar.gz" "$dependencies/dependencies.tar.gz" "$work/nodeagent.tar.gz" \
    "$label.title=nodeagent" "$label.version=$version" \
    "$label.description=Fills a Kubernetes node's Nix store before the pods that need it arrive." \
    ${REVISION:+"$label.revision=$REVISION"} ${SOURCE:+"$label.source=$SOURCE"}
mv "$work/image.tar" "$out"
