"""The agent's image: what is in it, and that it works on a read-only root."""

import asyncio
import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import nodeagent
from integration import dockerfile, image
from integration.image import Image
from integration.site import Node, Site
from nodeagent import release
from nodeagent.nix import Nix

# Cold, the first that asks for an image waits for Debian packages to be installed.
pytestmark = pytest.mark.timeout(600)
MEGABYTES: Final = 150
WAIT_SECONDS: Final = 60
# As a container runtime would: only /tmp and what is mounted at /host may be written.
CONTAINER: Final = """
root=$1 host=$2; shift 2
mkdir -p "$root/host"
mount --bind -o ro "$root" "$root"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$host" "$root/host"
exec /usr/sbin/chroot "$root" "$@"
"""
SPACES: Final = ("/usr/bin/unshare", "--mount", "--pid", "--fork", "--kill-child")
UNRESOLVED: Final = """
import pathlib, subprocess, sys
loader = next(one for one in pathlib.Path("/usr").glob("lib*/**/ld-linux*.so.*"))
for one in [*pathlib.Path("/usr").rglob("*.so*"), *pathlib.Path("/opt").rglob("*.so*")]:
    if not one.is_symlink() and one.read_bytes()[:4] == b"\\x7fELF":
        done = subprocess.run([loader, "--list", one], capture_output=True, text=True)
        print(*(f"{one}: {line}" for line in done.stdout.splitlines() if "not found" in line))
"""


@pytest.fixture(scope="module")
def made() -> Image:
    """Have the image, as the script makes it."""
    return Image(image.agent_image())


@pytest.fixture(scope="module")
def root(made: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Have its files."""
    with unpacked(made, tmp_path_factory) as directory:
        yield directory


@pytest.fixture(scope="module")
def docker() -> Image:
    """Have the image, as the Dockerfile makes it."""
    return Image(dockerfile.dockerfile_image())


@pytest.fixture(scope="module")
def docker_root(docker: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Have the files of that one."""
    with unpacked(docker, tmp_path_factory) as directory:
        yield directory


@contextlib.contextmanager
def unpacked(packed: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("image") / "root"
    packed.unpack(directory)
    yield directory
    subprocess.run(["rm", "-rf", "--one-file-system", directory], check=True)


def run(
    made: Image, root: Path, host: Path, *argv: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in the image; `host` is mounted at /host."""
    return subprocess.run(
        [*SPACES, "/bin/sh", "-ec", CONTAINER, "sh", str(root), str(host), *argv],
        env=made.environment | (env or {}),
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_one_pass_in_it_publishes_on_a_read_only_root(
    made: Image, root: Path, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    closure = site.closure(count=8)
    manifest = await site.release(closure)
    site.promote(manifest)
    app = web.Application()
    app.router.add_static("/", site.cache)
    async with TestServer(app) as server:
        nice = {"nice": "5"}
        node = Node(site, tmp_path / "node1", f"http://127.0.0.1:{server.port}", nice)
        flags = [part.replace(str(tmp_path), "/host") for part in node.argv("--once", "--idle-io")]
        done = await asyncio.to_thread(run, made, root, tmp_path, "nodeagent", *flags[3:])
    assert done.returncode == 0, done.stderr
    published = json.loads((node.run_dir / "profiles/ds/release.json").read_text())
    assert published["release"] == release.digest_of(manifest)
    assert closure.root in node.hello()


async def test_its_nix_fetches_from_a_cache_on_a_read_only_root(
    made: Image, root: Path, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    closure = site.closure()
    await site.release(closure)
    trust = ("--option", "trusted-public-keys", (tmp_path / "keys/cache-1.pub").read_text())
    copy = ("nix", "copy", "--from", "file:///host/cache", "--to", "/host/node", *trust)
    environment = dict(Nix(Path("/host/node")).env)
    said(run(made, root, tmp_path, *copy, closure.root, env=environment))
    asked = ("nix-store", "--store", "/host/node", "--check-validity", *closure.paths)
    said(run(made, root, tmp_path, *asked, env=environment))


def test_its_entry_point_is_the_agent(made: Image, root: Path, tmp_path: Path) -> None:
    assert made.config["Entrypoint"] == ["nodeagent"]
    assert made.config["Cmd"] == ["agent"]
    assert "--store-root" in said(run(made, root, tmp_path, "nodeagent", "agent", "--help"))
    version = ("python3", "-c", "import nodeagent; print(nodeagent.__version__)")
    assert said(run(made, root, tmp_path, *version)).strip() == nodeagent.__version__


def test_labels_say_what_it_is(made: Image) -> None:
    labels = made.config["Labels"]
    assert labels["org.opencontainers.image.title"] == "nodeagent"
    assert labels["org.opencontainers.image.version"] == nodeagent.__version__
    assert "Nix store" in labels["org.opencontainers.image.description"]


def test_it_is_small(made: Image) -> None:
    assert 0 < made.compressed_bytes <= MEGABYTES * 1_000_000


def test_all_that_the_agent_starts_is_there(made: Image, root: Path, tmp_path: Path) -> None:
    for argv in (
        ["nix-store", "--version"],
        ["nix", "--version"],
        ["nice", "-n", "10", "ionice", "-c", "idle", "nix", "--version"],
    ):
        assert re.search(r"\(Nix\) 2\.\d+", said(run(made, root, tmp_path, *argv)))


def test_it_holds_python_nodeagent_and_nix_and_nothing_else(root: Path) -> None:
    programs = {
        one.name for place in ("usr", "opt/venv") for one in (root / place / "bin").iterdir()
    }
    allowed = r"nodeagent|python3?(\.\d+)?|nix(-[a-z-]+)?|nice|ionice"
    assert not [one for one in programs if not re.fullmatch(allowed, one)]
    assert {"nodeagent", "python3", "nix", "nix-store"} <= programs
    packages = {one.name for one in (root / "opt/venv").glob("lib/*/site-packages/*")}
    assert {"nodeagent", "aiohttp"} <= packages
    assert not packages & {"pip", "setuptools", "flit_core", "pytest", "tests", "integration"}
    assert not list((root / "usr/lib").glob("python3*/ensurepip/*"))
    for emptied in ("var/lib/apt", "var/cache", "var/log", "root", "usr/share/man", "etc/apt"):
        assert not (root / emptied).exists()
    told = {one.name for one in (root / "var/lib/dpkg/status.d").iterdir()}
    assert {"nix-bin", "libc6", "python3.13"} <= told
    assert not told & {"apt", "bash", "dash", "dpkg", "gcc", "perl"}


def test_every_module_is_compiled(root: Path) -> None:
    libraries = [root / "opt/venv/lib", *root.glob("usr/lib/python3*")]
    modules = [one for library in libraries for one in library.rglob("*.py")]
    assert len(modules) > 1000
    assert not [one for one in modules if not list(one.parent.glob(f"__pycache__/{one.stem}.*"))]


def test_every_library_finds_what_it_needs(made: Image, root: Path, tmp_path: Path) -> None:
    assert not said(run(made, root, tmp_path, "python3", "-c", UNRESOLVED)).strip()


def test_it_names_no_mirror_of_the_machine_that_made_it(root: Path) -> None:
    assert not naming_a_mirror(root)


def naming_a_mirror(root: Path) -> str:
    """List the files that name a host of this machine's apt or pip settings."""
    apt = image.output("apt-get", "indextargets", "--format", "$(REPO_URI)")
    pip = image.output("python3", "-m", "pip", "config", "list")
    hosts = set(re.findall(r"//([^/\s'\"]+)", apt + pip))
    assert hosts
    patterns = [part for host in hosts for part in ("-e", host.rpartition("@")[2])]
    argv = ["grep", "-rlF", *patterns, str(root)]
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert found.returncode in {0, 1}, found.stderr
    return found.stdout


def test_the_same_code_makes_the_same_image(tmp_path: Path) -> None:
    before = None
    while before != (before := image.key(image.sources())):  # Nobody edited meanwhile.
        made, again = image.agent_image(), image.build(tmp_path / "again.tar")
    assert Image(again).manifest == Image(made).manifest


def test_the_dockerfile_makes_the_same_agent(
    docker: Image, docker_root: Path, tmp_path: Path
) -> None:
    version = ("python3", "-c", "import nodeagent; print(nodeagent.__version__)")
    for argv, answer in (
        (("nodeagent", "agent", "--help"), "--store-root"),
        (("nix-store", "--version"), "(Nix) 2."),
        (version, nodeagent.__version__),
    ):
        assert answer in said(run(docker, docker_root, tmp_path, *argv))
    assert not list(docker_root.glob("opt/venv/lib/*/site-packages/pip"))
    assert not list(docker_root.glob("opt/build"))


def test_the_dockerfile_says_and_starts_the_same(docker: Image, made: Image) -> None:
    for key in ("Entrypoint", "Cmd", "Env", "User"):
        assert sorted(docker.config[key]) == sorted(made.config[key])
    labels = {f"org.opencontainers.image.{key}" for key in ("title", "description", "version")}
    assert {key: docker.config["Labels"][key] for key in labels} == {
        key: made.config["Labels"][key] for key in labels
    }
    assert docker.config["Labels"]["org.opencontainers.image.revision"] == dockerfile.REVISION
    assert 0 < docker.compressed_bytes <= MEGABYTES * 1_000_000


def test_no_layer_of_the_dockerfile_keeps_a_secret(docker_root: Path) -> None:
    assert not list((docker_root / "etc/apt").glob("sources.list*/*"))
    assert not naming_a_mirror(docker_root / "etc")
    assert not (docker_root / "etc/pip.conf").exists()
    assert not list((docker_root / "run").glob("secrets/*"))
