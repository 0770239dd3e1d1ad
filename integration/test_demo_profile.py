"""The example profile: what it is planned from, and that it runs where nothing else is."""

import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.demo import profile, recipe, wheels
from nodeagent.demo.debian import Package
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from tests.loops import finish

# Mounts of this shell go with its namespace; the new root holds the store and no more.
IN_EMPTY_ROOT = """
set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
mkdir -p "$1/nix/store" "$1/proc" "$1/dev" "$1/tmp"
mount --bind "$2/nix/store" "$1/nix/store"
mount -o remount,bind,ro "$1/nix/store"
mount -t proc none "$1/proc"
touch "$1/dev/null" && mount --bind /dev/null "$1/dev/null"
root=$1; shift 2
exec chroot "$root" "$@"
"""
LOAD_ALL_EXTENSIONS = """
import importlib, pathlib, sys, warnings
warnings.simplefilter("ignore")
directory = pathlib.Path(sys.base_prefix, "lib", "python3.11", "lib-dynload")
names = [file.name.partition(".")[0] for file in directory.iterdir()]
for name in names:
    importlib.import_module(name)
print(len(names), sys.prefix)
"""
MAPPED_FILES = """
import ssl, sqlite3, ctypes, readline
print(*{line.split()[-1] for line in open("/proc/self/maps") if "/" in line})
"""
CANCEL_A_THREAD = """
import ctypes, time
libc = ctypes.CDLL(None)
thread = ctypes.c_ulong()
libc.pthread_create(ctypes.byref(thread), None, libc.pause, None)
time.sleep(0.1)
libc.pthread_cancel(thread)
print(libc.pthread_join(thread, None))
"""


def silent(_: str) -> None: ...


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a scratch store and the built-in profile in it: made once, it takes seconds."""
    scratch = tmp_path_factory.mktemp("scratch")
    return scratch, finish(profile.builtin(scratch, silent))


@pytest.fixture
def empty_root(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "root"
    root.mkdir()
    yield root
    assert list(root.iterdir()) == []  # Nothing stayed mounted.


def run_in(root: Path, built: tuple[Path, Path], script: str) -> str:
    scratch, path = built
    shell = ("unshare", "--mount", "sh", "-c", IN_EMPTY_ROOT, "sh")
    return output(*shell, root, scratch, path / "bin" / "python3", "-c", script)


def query(scratch: Path, *argv: str | Path) -> list[str]:
    return output("nix-store", "--store", scratch, "--query", *argv).split()


def output(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_every_extension_module_loads_where_nothing_else_is(
    built: tuple[Path, Path], empty_root: Path
) -> None:
    count, prefix = run_in(empty_root, built, LOAD_ALL_EXTENSIONS).split()
    assert int(count) > 40
    assert prefix == str(built[1])


def test_all_that_the_interpreter_maps_is_in_its_closure(
    built: tuple[Path, Path], empty_root: Path
) -> None:
    scratch, path = built
    closure = query(scratch, "--requisites", path)
    mapped = run_in(empty_root, built, MAPPED_FILES).split()
    assert all(any(file.startswith(f"{member}/") for member in closure) for file in mapped)


def test_a_thread_can_be_cancelled(built: tuple[Path, Path], empty_root: Path) -> None:
    """Glibc loads libgcc_s for that by name: without it, the process is aborted."""
    assert run_in(empty_root, built, CANCEL_A_THREAD) == "0\n"


def test_libraries_are_store_paths_of_their_own(built: tuple[Path, Path]) -> None:
    scratch, path = built
    names = {Path(member).name.partition("-")[2] for member in query(scratch, "-R", path)}
    for library in ("libc6", "libssl3", "libsqlite3-0", "zlib1g", "python"):
        assert any(name.startswith(library) for name in names)
    assert len(names) > 20


def test_compiled_code_is_trusted_without_times(built: tuple[Path, Path]) -> None:
    """The second word of a .pyc is 1 for an unchecked hash (PEP 552); 0 would mean a time."""
    scratch, _ = built
    compiled = list(scratch.rglob("*.pyc"))
    assert len(compiled) > 500
    assert {file.read_bytes()[4:8] for file in compiled} == {b"\1\0\0\0"}


async def test_a_second_build_gives_the_same_bytes(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    scratch, path = built
    again = await profile.builtin(tmp_path, silent)
    assert again == path
    closure = query(scratch, "--requisites", path)
    assert query(scratch, "--hash", *closure) == query(tmp_path, "--hash", *closure)


async def test_what_is_built_is_told_with_its_place_in_the_whole(tmp_path: Path) -> None:
    said: list[str] = []
    await profile.builtin(tmp_path, said.append)
    total = len(said) - 1
    assert said[-1] == f"building {total}/{total} ds"


async def test_without_a_network_fetch_says_so_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = "http://127.0.0.1:9"
    monkeypatch.setenv("PIP_INDEX_URL", closed)
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    configuration = tmp_path / "apt.conf"
    configuration.write_text(f'Acquire::http::Proxy "{closed}"; Acquire::https::Proxy "{closed}";')
    monkeypatch.setenv("APT_CONFIG", str(configuration))
    with pytest.raises(NodeAgentError) as caught:
        await profile.fetch(tmp_path / "cache", silent)
    assert caught.value.reason is Reason.CACHE_UNREACHABLE
    assert all(path.suffix == ".partial" for path in (tmp_path / "cache").iterdir())


async def test_a_build_that_fails_says_what_nix_said(tmp_path: Path) -> None:
    broken = tmp_path / "libc6.deb"
    broken.write_bytes(b"no archive")
    names = ("libc6", "python3.11-minimal")
    packages = tuple(Package(name, "1", (), broken) for name in names)
    with pytest.raises(NodeAgentError, match="dpkg-deb") as caught:
        await profile.build(profile.Inputs(packages, (), ()), tmp_path / "scratch", silent)
    assert caught.value.reason is Reason.NIX_FAILED


def package(name: str, *depends: str, version: str = "1") -> Package:
    return Package(name, version, depends, Path(f"{name}.deb"))


def test_the_interpreter_and_its_library_become_one_path() -> None:
    plan = recipe.write(
        [
            package("libpython3.11-stdlib", "libssl3", "python3.11-minimal"),
            package("python3.11-minimal", "perl"),
            package("libssl3", version="1:3.0~a"),
        ],
        [],
        [],
    )
    ssl, python = plan.libraries
    assert (ssl.name, ssl.version) == ("libssl3", "3.0-a")
    assert python.name == recipe.PYTHON
    assert python.needs == ("libssl3",)
    assert len(python.parts) == 2


def test_glibc_does_not_reference_the_library_that_references_it() -> None:
    plan = recipe.write([package("libc6", "libgcc-s1"), package("libgcc-s1", "libc6")], [], [])
    assert [step.needs for step in plan.libraries] == [(), ("libc6",)]


def test_packages_that_need_each_other_in_a_circle_are_refused_by_name() -> None:
    with pytest.raises(NodeAgentError, match=r"circle: .*zlib1g"):
        recipe.write([package("libssl3", "zlib1g"), package("zlib1g", "libssl3")], [], [])


def make_wheel(directory: Path, name: str, *requires: str) -> None:
    with zipfile.ZipFile(directory / f"{name}-1-py3-none-any.whl", "w") as archive:
        lines = [f"Name: {name}", "Version: 1", *(f"Requires-Dist: {line}" for line in requires)]
        archive.writestr(f"{name}-1.dist-info/METADATA", "\n".join(lines) + "\n\n")


def test_a_wheel_needs_what_its_markers_and_the_wanted_extras_ask_for(tmp_path: Path) -> None:
    make_wheel(
        tmp_path,
        "App",
        "lib[fast]>=1",
        "app[all]; extra == 'all'",
        "windows; sys_platform == 'win32'",
        "old; python_version < '3.11'",
        "absent",
    )
    make_wheel(tmp_path, "lib", "speed; extra == 'fast'", "old; extra == 'slow'")
    for name in ("speed", "windows", "old"):
        make_wheel(tmp_path, name)
    needs = {wheel.name: wheel.needs for wheel in wheels.read(tmp_path, ["app"])}
    assert needs == {"app": ("lib",), "lib": ("speed",), "speed": (), "windows": (), "old": ()}
