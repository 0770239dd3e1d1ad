"""A release baked from a real store, and stock Nix as its client, over files and over HTTP."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from integration import closures
from integration.closures import Closure, Tree
from nodeagent import nar, release, storepath
from nodeagent.narinfo import parse

NODEAGENT = (sys.executable, "-m", "nodeagent")
ODD_NAMES = (b"new\nline", b"\xff\xfe", b" ", b"-rf", b"*", b"\\", b"caf\xc3\xa9", b"CASE", b"case")


@dataclass(frozen=True)
class Baked:
    """A closure, and the cache directory that holds its release."""

    closure: Closure
    cache: Path
    secret: Path
    public: Path
    digest: str

    def trusting(self) -> dict[str, str]:
        return {"trusted-public-keys": self.public.read_text().strip()}

    def addressed(self, address: str) -> dict[str, str]:
        return {**self.trusting(), "substituters": address}


def awkward(real: Path) -> None:
    """Fill a tree with what naive readers of NARs break on."""
    top = os.fsencode(real)
    (real / "empty").mkdir(parents=True)
    (real / "bin").mkdir()
    (real / "bin/run").write_text("#!/bin/sh\n")
    (real / "bin/run").chmod(0o755)
    (real / "file").write_bytes(b"")
    (real / "dangling").symlink_to("nowhere/at/all")
    (real / "self").symlink_to(".")
    for size in (1, 7, 8, 9, 262144, 262145):
        (real / f"size{size}").write_bytes(b"x" * size)
    for name in ODD_NAMES:
        Path(os.fsdecode(top + b"/" + name)).write_bytes(name)
    deep = real.joinpath(*["deep"] * 60)
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("bottom")


def closure_with_edges(root: Path) -> Closure:
    """Make a closure with content-addressed paths, self-references and awkward trees."""
    plain = closures.make_closure(root, count=30)
    scratch = root / "scratch" / "edges"
    awkward(scratch)
    (scratch.parent / "link").symlink_to("nowhere")
    added = [closures.add(root, scratch), closures.add(root, scratch.parent / "link")]
    one = closures.made_up("awkward-1.0")
    top = closures.made_up("everything")
    needs = (*added, one, plain.root)
    trees = [Tree(one, awkward, (added[0], one)), Tree(top, lambda real: real.mkdir(), needs)]
    closures.add_trees(root, trees)
    return Closure(root, top, (*plain.paths, *needs[:-1], top))


def build(closure: Closure, cache: Path, key: Path, *more: str) -> str:
    asked = (f"--profile=ds={closure.root}", f"--store-root={closure.store_root}")
    where = ("--cache", str(cache), "--key", str(key))
    return closures.run(*NODEAGENT, "release", "build", *asked, *where, *more).strip()


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Baked:
    scratch = tmp_path_factory.mktemp("baked")
    closure = closure_with_edges(scratch / "store")
    secret, public = closures.make_key(scratch)
    digest = build(closure, scratch / "cache", secret)
    return Baked(closure, scratch / "cache", secret, public, digest)


@pytest.fixture(scope="module")
def served(baked: Baked) -> Iterator[str]:
    """Serve the cache as `nodeagent serve` does; give its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = (*NODEAGENT, "serve", str(baked.cache), "--port", str(port))
    with subprocess.Popen(argv) as server:
        try:
            await_cache(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGINT)
            code = server.wait(10)
    assert code == 0


def await_cache(address: str) -> None:
    for _ in range(200):
        try:
            with urlopen(f"{address}/nix-cache-info"):
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"{address} does not answer")


@pytest.fixture(params=["file", "http"])
def address(request: pytest.FixtureRequest, baked: Baked) -> str:
    if request.param == "file":
        return baked.cache.as_uri()
    served: str = request.getfixturevalue("served")
    return served


def assert_same(closure: Closure, root: Path) -> None:
    """Compare each path of a closure with what lies in another store."""
    for path in closure.paths:
        there, here = (os.fsencode(storepath.real(one, path)) for one in (root, closure.store_root))
        assert nar.hash_tree(there) == nar.hash_tree(here), path


def info_of(root: Path, path: str) -> dict[str, object]:
    told = closures.run("nix", "path-info", "--store", str(root), "--json", "--recursive", path)
    return {one.pop("path"): one for one in json.loads(told)}


def assert_registered_alike(baked: Baked, root: Path) -> None:
    """Compare what two databases know of a closure, and check its signatures with Nix."""
    volatile = {"registrationTime", "signatures", "ultimate"}
    before, after = (info_of(one, baked.closure.root) for one in (baked.closure.store_root, root))
    for known in (before, after):
        for one in known.values():
            assert isinstance(one, dict)
            for key in volatile:
                one.pop(key, None)
    assert before == after
    top = baked.closure.root
    told = closures.run("nix", "path-info", "--store", str(root), "--recursive", "--sigs", top)
    lines = told.splitlines()
    assert len(lines) == len(baked.closure.paths)
    assert sum("test-cache-1:" in line or "ca:" in line for line in lines) == len(lines)
    verify = ("nix", "store", "verify", "--store", str(root), "--recursive", top)
    closures.run(*verify, settings=baked.trusting())


def test_nix_copy_takes_the_whole_closure_from_the_cache(
    baked: Baked, address: str, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    copy = ("nix", "copy", "--from", address, "--to", str(root), baked.closure.root)
    closures.run(*copy, settings=baked.trusting())
    assert_same(baked.closure, root)
    assert_registered_alike(baked, root)


def test_nix_store_realises_the_profile_by_substitution(
    baked: Baked, address: str, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    realise = ("nix-store", "--store", str(root), "--realise", baked.closure.root)
    closures.run(*realise, settings=baked.addressed(address))
    assert_same(baked.closure, root)
    assert_registered_alike(baked, root)


def test_nix_refuses_the_cache_without_its_key(baked: Baked, tmp_path: Path) -> None:
    copy = ("nix", "copy", "--from", baked.cache.as_uri(), "--to", str(tmp_path / "store"))
    with pytest.raises(AssertionError, match=r"lacks a valid signature|no signature"):
        closures.run(*copy, baked.closure.root, settings={"trusted-public-keys": ""})


def test_nix_itself_writes_the_same_facts_into_a_cache(baked: Baked, tmp_path: Path) -> None:
    target = f"file://{tmp_path}/nix?compression=zstd&secret-key={baked.secret}"
    store = str(baked.closure.store_root)
    closures.run("nix", "copy", "--from", store, "--to", target, baked.closure.root)
    for path in baked.closure.paths:
        name = f"{storepath.hash_part(path)}.narinfo"
        theirs, ours = (parse((one / name).read_text()) for one in (tmp_path / "nix", baked.cache))
        facts = ("path", "nar_hash", "nar_size", "references", "deriver", "ca", "compression")
        assert {fact: getattr(theirs, fact) for fact in facts} == {
            fact: getattr(ours, fact) for fact in facts
        }
        assert set(theirs.sigs) <= set(ours.sigs) or theirs.ca


def test_content_addresses_and_self_references_are_in_the_manifest(baked: Baked) -> None:
    manifest = (baked.cache / release.manifest_file(baked.digest)).read_bytes()
    (system,) = release.parse(manifest, baked.digest).systems.values()
    assert system.paths.keys() == set(baked.closure.paths)
    assert sum(info.ca is not None for info in system.paths.values()) == 3
    selves = [path for path, info in system.paths.items() if path in info.references]
    assert any("awkward" in path for path in selves)


def test_another_cache_of_the_same_store_is_the_same_release(baked: Baked, tmp_path: Path) -> None:
    secret, _ = closures.make_key(tmp_path, "other-1")
    assert build(baked.closure, tmp_path / "cache", secret) == baked.digest


def test_the_release_verifies_with_its_contents(baked: Baked) -> None:
    argv = ("release", "verify", baked.digest[:20], "--cache", str(baked.cache))
    told = closures.run(*NODEAGENT, *argv, "--cache-keys", str(baked.public), "--contents")
    assert "0 faulty, contents checked" in told


def test_the_release_verifies_over_http(baked: Baked, served: str) -> None:
    argv = ("release", "verify", baked.digest, "--cache", served, "--contents")
    told = closures.run(*NODEAGENT, *argv, "--cache-keys", str(baked.public))
    assert "0 faulty, contents checked" in told


def test_a_new_version_is_told_apart_in_words(baked: Baked, tmp_path: Path) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    versions = [closures.make_closure(store, count=6, version=version) for version in "12"]
    old, new = (build(closure, cache, baked.secret) for closure in versions)
    told = closures.run(*NODEAGENT, "release", "diff", old, new, "--cache", str(cache))
    assert "profile ds moved" in told
    assert "~ ds 1 → 2" in told
    assert "1 path to fetch" in told


def test_nix_uses_what_was_published(baked: Baked, tmp_path: Path) -> None:
    mirror, root = tmp_path / "mirror", tmp_path / "store"
    told = closures.run(*NODEAGENT, "release", "publish", str(baked.cache), str(mirror))
    assert told.strip() == baked.digest
    copy = ("nix", "copy", "--from", mirror.as_uri(), "--to", str(root), baked.closure.root)
    closures.run(*copy, settings=baked.trusting())
    assert_same(baked.closure, root)


def test_a_store_with_a_changed_file_is_refused(baked: Baked, tmp_path: Path) -> None:
    closure = closures.make_closure(tmp_path / "store")
    harmed = closure.real(closure.root) / "bin/hello"
    harmed.chmod(0o755)
    harmed.write_text(harmed.read_text().replace("hello", "jello"))
    with pytest.raises(AssertionError, match=f"{Path(closure.root).name}: its contents have hash"):
        build(closure, tmp_path / "cache", baked.secret)


def test_a_closure_with_lost_paths_is_refused_with_all_of_them(
    baked: Baked, tmp_path: Path
) -> None:
    closure = closures.make_closure(tmp_path / "store", count=6)
    lost = closure.paths[1:3]
    for path in lost:
        shutil.rmtree(closure.real(path))
    with pytest.raises(AssertionError) as caught:
        build(closure, tmp_path / "cache", baked.secret)
    assert all(f"{path} is registered, but not on disk" in str(caught.value) for path in lost)


def test_ctrl_c_ends_a_build_and_leaves_whole_files_only(baked: Baked, tmp_path: Path) -> None:
    closure = closures.make_closure(tmp_path / "store", count=40, file_bytes=1 << 20)
    cache = tmp_path / "cache"
    asked = (f"--profile=ds={closure.root}", f"--store-root={closure.store_root}")
    where = ("--cache", str(cache), "--key", str(baked.secret))
    argv = (*NODEAGENT, "release", "build", *asked, *where)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as building:
        while building.poll() is None and not any(cache.glob("*.narinfo")):
            time.sleep(0.01)
        building.send_signal(signal.SIGINT)
        out, complaint = building.communicate(timeout=20)
    assert (building.returncode, out) == (130, b"")
    assert b"Traceback" not in complaint
    assert [file.name for file in cache.rglob(".*")] == [".lock"]
    assert list((cache / "releases").iterdir()) == []
    told = json.loads(build(closure, cache, baked.secret, "--output", "json"))
    assert told["reused"] > 0
    assert told["reused"] + told["baked"] == 40


def test_progress_is_json_lines_on_stderr_and_only_the_digest_on_stdout(
    baked: Baked, tmp_path: Path
) -> None:
    asked = (f"--profile=ds={baked.closure.root}", f"--store-root={baked.closure.store_root}")
    where = ("--cache", str(tmp_path / "cache"), "--key", str(baked.secret))
    argv = (*NODEAGENT, "release", "build", *asked, *where)
    done = subprocess.run(argv, capture_output=True, check=True, text=True)
    assert done.stdout == f"{baked.digest}\n"
    steps = [json.loads(line) for line in done.stderr.splitlines()]
    assert steps[-1]["bytes_done"] == steps[-1]["bytes"] > 0
