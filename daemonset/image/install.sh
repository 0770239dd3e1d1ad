#!/bin/sh
# install.sh dependencies LOCK | install.sh code SOURCE OUT
# The Python side of the image, for build.sh and the Dockerfile alike. Runs in a Debian with
# python3-venv. /opt/build has pip and the build backend and stays behind; /opt/venv travels.
set -eu

# unchecked-hash: nobody edits an image, so nothing needs a stat, and no time is written into it.
compile() { python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash "$@"; }

pip() { /opt/build/bin/pip --quiet --disable-pip-version-check "$@"; }

case $1 in
dependencies)
    python3 -m venv /opt/build
    python3 -m venv --without-pip /opt/venv
    locked="--no-deps --no-compile --only-binary :all: --require-hashes --requirement $2"
    # The lock holds the build backend, too, so nothing unhashed is built with.
    pip install $locked
    pip --python /opt/venv/bin/python3 install $locked
    pip --python /opt/venv/bin/python3 uninstall --yes flit_core
    # Nothing reads what some wheels carry: typing stubs, tests, programs.
    find /opt/venv -depth \( -name tests -o -name '*.pyi' -o -name '*.pxd' \) -exec rm -r {} +
    find /opt/venv/bin -mindepth 1 ! -name 'python*' -delete
    compile /opt/venv
    ;;
code)
    pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel "$2"
    # By name: the address of a wheel would be written down, with a digest that is new each time.
    pip --python /opt/venv/bin/python3 install --no-deps --no-index --find-links /tmp/wheel \
        --no-compile --no-warn-script-location --root "$3" nodeagent
    compile -s "$3" "$3"
    ;;
esac
