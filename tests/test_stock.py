import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.nix import Nix
from nodeagent.plan import Step
from nodeagent.realise import stock
from nodeagent.store import StoreFiles
from tests import graphs

STEPS = [Step(graphs.path(number), graphs.info(number)) for number in (1, 2)]
RIGHT = {step.path: step.info.nar_hash for step in STEPS}
WRONG = {**RIGHT, STEPS[0].path: graphs.info(9).nar_hash}


@dataclass(frozen=True)
class Owner(Nix):
    """A daemon with caches that offer what they are told to; it fetches all or fails."""

    caches: dict[str, dict[str, str]] = field(default_factory=dict)
    there: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    broken: Reason | None = None

    def valid(self) -> dict[str, str]:
        return self.there

    async def offered(self, cache: str, paths: Sequence[str]) -> dict[str, str]:
        return self.caches[cache]

    async def copy(self, cache: str, paths: Sequence[str], trusted: Sequence[str]) -> None:
        self.asked.append(cache)
        if self.broken is not None:
            raise NodeAgentError(self.broken, "no; do something")
        if not set(paths) <= self.caches[cache].keys():
            raise NodeAgentError(Reason.NIX_FAILED, "lacks paths; publish")
        self.there.update(self.caches[cache])


async def fetch(nix: Owner, root: Path) -> dict[str, Reason]:
    files = StoreFiles(root / "host")
    files.claim(share=False)
    caches = [(name, name) for name in nix.caches]
    refused = await stock.fetch(STEPS, nix, files, caches, ["key"])
    assert {str(root.readlink()) for root in files.pending.iterdir()} == RIGHT.keys()
    return {path: error.reason for path, error in refused.items()}


async def test_the_first_cache_that_has_all_is_enough(tmp_path: Path) -> None:
    nix = Owner(tmp_path, caches={"lacks": {}, "has": RIGHT, "unasked": RIGHT})
    assert await fetch(nix, tmp_path) == {}
    assert nix.asked == ["lacks", "has"]


async def test_a_cache_that_disagrees_with_the_manifest_is_not_copied_from(tmp_path: Path) -> None:
    nix = Owner(tmp_path, caches={"wrong": WRONG})
    assert await fetch(nix, tmp_path) == dict.fromkeys(RIGHT, Reason.NAR_CORRUPT)
    assert nix.asked == []


async def test_what_the_store_says_in_the_end_counts(tmp_path: Path) -> None:
    nix = Owner(tmp_path, caches={"has": RIGHT})
    object.__setattr__(nix, "valid", lambda: WRONG)  # as if somebody else fetched meanwhile
    assert await fetch(nix, tmp_path) == {STEPS[0].path: Reason.NAR_CORRUPT}


async def test_without_a_cache_all_is_missing(tmp_path: Path) -> None:
    assert await fetch(Owner(tmp_path), tmp_path) == dict.fromkeys(RIGHT, Reason.NAR_MISSING)


async def test_what_concerns_the_store_ends_the_pass(tmp_path: Path) -> None:
    nix = Owner(tmp_path, caches={"one": RIGHT, "two": RIGHT}, broken=Reason.DISK_SHORT)
    with pytest.raises(NodeAgentError):
        await fetch(nix, tmp_path)
    assert nix.asked == ["one"]


def test_a_daemon_is_one_that_answers(scratch: Path) -> None:
    place = scratch / "nix/var/nix/daemon-socket/socket"
    place.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        assert stock.daemon(scratch, "auto") is None  # it is there, and nobody listens
        with pytest.raises(NodeAgentError, match="--executor pour"):
            stock.daemon(scratch, "nix")
        server.listen()
        assert stock.daemon(scratch, "auto") == place
        assert stock.daemon(scratch, "nix") == place
        assert stock.daemon(scratch, "pour") is None
