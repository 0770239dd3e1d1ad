from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nodeagent import release
from nodeagent.nix import Nix, Registration
from nodeagent.plan import Plan, Step
from nodeagent.realise import run as realising
from nodeagent.realise.jobs import Done
from nodeagent.realise.run import Means, Tally
from nodeagent.release import PathInfo, references_first
from nodeagent.store import StoreFiles
from tests import graphs


@dataclass(frozen=True)
class Shelf(StoreFiles):
    """A store directory in memory."""

    there: set[str] = field(default_factory=set)

    def place(self, paths: Sequence[str]) -> None:
        self.there.update(paths)


@dataclass(frozen=True)
class Closed(Nix):
    """A Nix that takes reference-closed batches of paths that are there, and nothing else."""

    known: set[str] = field(default_factory=set)
    shelf: Shelf = field(default_factory=lambda: Shelf(Path("/nowhere")))

    async def register(self, batch: Sequence[Registration]) -> None:
        for one in batch:
            assert one.path in self.shelf.there
            assert one.path not in self.known
            assert set(one.info.references) <= self.known | {one.path}
            self.known.add(one.path)


@given(graphs.dags(), st.data())
async def test_commits_are_closed_whatever_finishes_when(
    paths: dict[str, PathInfo], data: st.DataObject
) -> None:
    kept = data.draw(st.sets(st.sampled_from(sorted(paths)))) if paths else set()
    kept = {ref for one in kept for ref in release.closure(paths, one)}
    todo = [one for one in references_first(paths) if one not in kept]
    lost = set(data.draw(st.lists(st.sampled_from(todo), max_size=2))) if todo else set()
    nix = Closed(Path("/nowhere"), known=set(kept))
    steps = tuple(Step(one, paths[one]) for one in todo)
    means = Means(nix.shelf, nix, [], [], 1)
    run = realising._Pass(  # noqa: SLF001 every interleaving through processes would take hours
        Plan(steps, frozenset(kept)), means, {}, Tally(), deque(), set(kept)
    )
    for step in data.draw(st.permutations(steps)):
        if step.path not in lost:
            realising._finish(run, step, Done([], fetched=True))  # noqa: SLF001 as above
        if data.draw(st.booleans()):
            await realising._commit(run)  # noqa: SLF001 as above
    while await realising._commit(run):  # noqa: SLF001 as above
        pass
    whole = {one for one in paths if not (release.closure(paths, one) & lost)}
    assert nix.known == whole
    assert run.finished.keys() == set(todo) - whole - lost
