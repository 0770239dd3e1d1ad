"""Releases that nobody needs go, with all that only they needed; everything else stays."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from integration import closures, test_disk
from integration.closures import Closure
from integration.site import Node, Site
from integration.test_disk import MIB
from nodeagent import release

SOON: Final = {"collect-seconds": "0.2", "collect-grace-seconds": "0.5", "keep-releases": "0"}
TMPFS: Final = ("-t", "tmpfs", "-o", f"size={256 * MIB}", "tmpfs")
LATE: Final = {"collect-seconds": "3600", "collect-grace-seconds": "0", "keep-releases": "0"}


class Rollouts:
    """A site, its node, and releases of which each shares all but two paths with the others."""

    def __init__(self, root: Path, settings: dict[str, str], file_bytes: int = 2000) -> None:
        self.site, self.file_bytes = Site(root), file_bytes
        self.node = Node(self.site, root / "node1", settings=settings)
        self.closures: dict[int, Closure] = {}
        self.manifests: dict[int, bytes] = {}

    async def bring(self, number: int) -> None:
        if number not in self.manifests:
            self.closures[number] = self.site.closure(
                str(number), changed=2, file_bytes=self.file_bytes
            )
            self.manifests[number] = await self.site.release(self.closures[number])
        self.site.promote(self.manifests[number])
        await self.node.until_published(self.manifests[number])

    def digest12(self, number: int) -> str:
        return release.digest12(release.digest_of(self.manifests[number]))

    def there(self) -> set[int]:
        """Tell of which releases all is there."""
        return {
            number
            for number, closure in self.closures.items()
            if all(self.node.real(path).exists() for path in closure.paths)
        }

    def own_paths(self, number: int) -> set[str]:
        """Give the paths that no other release has."""
        others = (one for other, one in self.closures.items() if other != number)
        return set(self.closures[number].paths).difference(*(one.paths for one in others))

    async def until_only(self, *numbers: int) -> None:
        await self.node.until(f"only {numbers}", lambda _: self.there() == set(numbers))


def gc(node: Node, *flags: str) -> dict[str, Any]:
    """Run `nodeagent gc` beside an agent."""
    url = f"http://127.0.0.1:{node.port}"
    argv = [sys.executable, "-m", "nodeagent", "gc", "--url", url, "--output", "json", *flags]
    return dict(json.loads(subprocess.run(argv, check=True, capture_output=True).stdout))


def steps(told: dict[str, Any]) -> list[str]:
    return sorted(one["step"] for one in told["releases"])


async def test_what_nobody_needs_goes_and_the_rest_stays(tmp_path: Path) -> None:
    case = Rollouts(tmp_path, SOON)
    async with case.node.agent():
        for number in (1, 2, 3):
            await case.bring(number)
        await case.until_only(2, 3)  # a rollback goes to 2
        assert not any(case.node.real(path).exists() for path in case.own_paths(1))
        assert "hello 3" in case.node.hello()
        await case.bring(1)  # it is fetched anew
    state = case.node.root / "state/releases"
    known = {file.stem[:12] for file in state.iterdir()}
    assert known >= {case.digest12(number) for number in (1, 3)}
    closures.nix_store(case.node.store_root, "--verify", "--check-contents")


async def test_what_is_mounted_stays_until_it_is_not(tmp_path: Path) -> None:
    case = Rollouts(tmp_path, SOON)
    async with case.node.agent():
        await case.bring(1)
        with mounted(case.node.run_dir / "profiles/ds") as user:
            for number in (2, 3):
                await case.bring(number)
            told = gc(case.node, "--dry-run")
            [why] = [
                one["reason"] for one in told["releases"] if case.digest12(1) in one["release"]
            ]
            assert f"process {user.pid} has it mounted" in why
            await asyncio.sleep(1.5)
            assert case.there() == {1, 2, 3}
        await case.until_only(2, 3)


@contextlib.contextmanager
def mounted(place: Path) -> Iterator["subprocess.Popen[str]"]:
    """Have a process bind a directory in a mount namespace of its own, as a container does."""
    script = f"mount --bind {place.resolve()} /mnt && echo bound && exec sleep 600"
    argv = ["unshare", "--mount", "sh", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "bound\n"
        try:
            yield child
        finally:
            child.kill()


async def test_a_dry_run_changes_nothing_and_explains_each_release_and_path(tmp_path: Path) -> None:
    case = Rollouts(tmp_path, LATE)
    async with case.node.agent():
        for number in (1, 2, 3):
            await case.bring(number)
        stranger = closures.nix_store(case.node.store_root, "--add", __file__).strip()
        told = gc(case.node, "--dry-run", "--paths")
        assert steps(told) == ["keep", "keep", "withdraw"]
        assert case.there() == {1, 2, 3}
        assert told["paths"].keys() == {
            stranger,
            *(path for one in case.closures.values() for path in one.paths),
        }
        assert "left alone" in told["paths"][stranger]
        for path in case.own_paths(3):
            assert f"release {case.digest12(3)} needs it: the pins select it" in told["paths"][path]
        assert steps(gc(case.node)) == ["delete", "keep", "keep"]
        assert gc(case.node)["pathsDeleted"] == len(case.own_paths(1))
        assert case.there() == {2, 3}
        assert case.node.real(stranger).exists()


async def test_a_foreign_root_keeps_what_it_leads_to(tmp_path: Path) -> None:
    case = Rollouts(tmp_path, LATE)
    async with case.node.agent():
        for number in (1, 2, 3):
            await case.bring(number)
        root = case.node.store_root / "nix/var/nix/gcroots/somebody"
        root.symlink_to(case.closures[1].root)
        gc(case.node)
        assert gc(case.node)["pathsDeleted"] == 0
        assert case.there() == {1, 2, 3}


async def test_where_room_is_short_what_nobody_needs_goes_at_once(tmp_path: Path) -> None:
    case = Rollouts(tmp_path, {**LATE, "collect-grace-seconds": "3600", "ensure-free": "99.9"})
    async with case.node.agent():
        for number in (1, 2, 3):
            await case.bring(number)
        assert gc(case.node)["pathsDeleted"] == len(case.own_paths(1))
        assert case.there() == {2, 3}


async def test_a_killed_agent_resumes_what_it_had_begun(tmp_path: Path) -> None:
    case = Rollouts(tmp_path, LATE)
    async with case.node.agent():
        for number in (1, 2, 3):
            await case.bring(number)
        gc(case.node)  # withdrawn
        assert case.node.process is not None
        case.node.process.kill()
    roots = case.node.store_root / "nix/var/nix/gcroots/nodeagent" / case.digest12(1)
    shutil.rmtree(roots)  # as far as it may have come
    async with case.node.agent():
        await case.node.until_published(case.manifests[3])
        assert gc(case.node)["pathsDeleted"] == len(case.own_paths(1))
        assert case.there() == {2, 3}


def leave(place: Path, free: int) -> None:
    """Let a tmpfs have no more than this left."""
    size = shutil.disk_usage(place).used + free
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount file systems")
async def test_a_release_that_finds_no_room_has_it_made(tmp_path: Path) -> None:
    (tmp_path / "node1").mkdir()
    with test_disk.mounted(tmp_path / "node1/host", *TMPFS) as store:
        case = Rollouts(tmp_path, {**LATE, "collect-grace-seconds": "3600"}, file_bytes=2 * MIB)
        async with case.node.agent():
            for number in (1, 2, 3):
                await case.bring(number)
            leave(store, 17 * MIB)  # 16 are for the database
            await case.bring(4)
            assert case.there() == {3, 4}
