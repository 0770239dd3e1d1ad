"""The image as the Dockerfile makes it: buildah on a base made here, without a registry.

The base names no mirror, as one from a registry names none of ours; apt's and pip's settings of
this machine come as the Dockerfile's secrets.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

import nodeagent
from integration.image import RECIPE, REPOSITORY, kept, need, output, sources

BASE: Final = "localhost/debian:trixie"
NAME: Final = "localhost/nodeagent:dockerfile"
REVISION: Final = "0123456789abcdef"
MIRRORS: Final = {"Debian": "trixie", "Debian-Security": "trixie-security"}
PIP_SETTINGS: Final = ("index-url", "extra-index-url", "trusted-host", "timeout")
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
HERE: Final = Path(__file__)


def dockerfile_image() -> Path:
    """Give an OCI archive of the code as it is now; at once if it is there."""
    need(("apt-get", "buildah", "mmdebstrap"))
    return kept(
        "dockerfile-image",
        lambda: [HERE, RECIPE / "Dockerfile", RECIPE / "Dockerfile.dockerignore", *sources()],
        _build,
        1,
    )


def _build(out: Path) -> Path:
    base = kept("dockerfile-base", lambda: [HERE, RECIPE / "pack.py"], _make_base, 1)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix="building-") as name:
        work = Path(name)
        # Copies instead of overlays: no mount stays behind, and it works on every file system.
        store = ("--root", f"{work}/root", "--runroot", f"{work}/run", "--storage-driver", "vfs")
        buildah = ("buildah", *store)
        environment = {**os.environ, "TMPDIR": str(work)}
        output(*buildah, "pull", "--quiet", f"oci-archive:{base}", env=environment)
        argv = ["bud", "--isolation", "chroot", "--network", "host", "--layers=false"]
        argv += ["--format", "oci", "--file", str(RECIPE / "Dockerfile")]
        argv += ["--ignorefile", str(RECIPE / "Dockerfile.dockerignore")]
        argv += ["--build-arg", f"BASE={BASE}", "--build-arg", f"VERSION={nodeagent.__version__}"]
        argv += ["--build-arg", f"REVISION={REVISION}", *_secrets(work)]
        output(*buildah, *argv, "--tag", NAME, str(REPOSITORY), env=environment)
        output(*buildah, "push", "--quiet", NAME, f"oci-archive:{out}:{NAME}", env=environment)
    return out


def _make_base(out: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=out.parent, prefix="building-") as name:
        work = Path(name)
        sources_list = work / "sources.list"
        sources_list.write_text(_mirrors())
        root = work / "root"
        argv = ["--variant=apt", "--dpkgopt=force-unsafe-io", "trixie", str(root)]
        output("mmdebstrap", *argv, str(sources_list))
        (root / "etc/apt/sources.list").unlink(missing_ok=True)
        for left in ("etc/apt/sources.list.d", "dev"):
            shutil.rmtree(root / left)
            (root / left).mkdir()
        layer = work / "base.tar.gz"
        pack = (sys.executable, str(RECIPE / "pack.py"))
        output(*pack, "layer", str(root), str(layer))
        output(
            *pack,
            "image",
            str(out),
            BASE,
            output("dpkg", "--print-architecture").strip(),
            str(layer),
        )
    return out


def _mirrors() -> str:
    """Spell a sources.list of the mirrors that apt has here."""
    argv = ("indextargets", "--format", "$(LABEL)|$(REPO_URI)", "Created-By: Packages")
    found = dict(line.split("|", 1) for line in output("apt-get", *argv).splitlines())
    lines = [f"deb {found[one]} {suite} main" for one, suite in MIRRORS.items() if one in found]
    assert lines, "apt has no Debian mirror here"
    return "".join(f"{line}\n" for line in lines)


def _secrets(work: Path) -> list[str]:
    """Give apt's and pip's settings of this machine to the build, and to no layer."""
    (work / "sources.list").write_text(_mirrors())
    told = output(sys.executable, "-m", "pip", "config", "list").splitlines()
    settings = {name.rpartition(".")[2]: value for name, _, value in map(_halves, told)}
    text = "".join(f"{key} = {settings[key]}\n" for key in PIP_SETTINGS if key in settings)
    (work / "pip.conf").write_text(f"[global]\n{text}")
    files = {"apt": work / "sources.list", "pip": work / "pip.conf", "ca": CERTIFICATES}
    found = {key: file for key, file in files.items() if file.exists()}
    return [part for key, file in found.items() for part in ("--secret", f"id={key},src={file}")]


def _halves(line: str) -> tuple[str, str, str]:
    name, equals, value = line.partition("=")
    return name, equals, value.strip("'")
