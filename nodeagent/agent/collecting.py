"""Collecting: when releases go that nobody needs, and what is done to them step by step.

What shall happen is decided anew in each cycle, from what is known then (`retention`). A cycle
and a pass exclude each other. What was begun and broken off, the next cycle finds undone.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from structlog.typing import FilteringBoundLogger

from nodeagent import collect, disk, release, retention, roots
from nodeagent.agent.flow import Flow
from nodeagent.agent.holders import Holder
from nodeagent.collect import Swept
from nodeagent.errors import NodeAgentError
from nodeagent.history import Remembered
from nodeagent.names import Reason
from nodeagent.release import digest12
from nodeagent.retention import Answer, Generation, Step, Verdict
from nodeagent.storepath import basename

AT_ONCE: Final = timedelta()
STALLED: Final = 6  # collections that were missed, until somebody has to know


@dataclass
class Collecting:
    """One agent's collection.

    `holders` are asked in order, the later ones only if that matters; of what the first does not
    need, `keep` more stay. Where less than `ensure_free` percent of the file system's bytes or
    inodes are left, nothing is kept that nobody needs, and no `grace` is given.
    """

    flow: Flow
    holders: Sequence[Holder]
    logger: FilteringBoundLogger
    keep: int
    grace: timedelta
    seconds: float
    ensure_free: float
    missed: int = 0
    _trouble: str = ""

    async def run(self) -> None:
        """Cycle after cycle, until cancelled."""
        while True:
            await asyncio.sleep(self.seconds)
            try:
                await self.cycle()
            except NodeAgentError as error:
                self._miss(error.message)

    async def cycle(self, *, short: bool = False) -> Swept:
        """Decide and act once; where room is short, at once."""
        short = short or await asyncio.to_thread(self._is_short)
        swept = Swept()
        with self.flow.metrics.collection_seconds.time():
            for _ in range(2 if short else 1):  # what the first withdraws, the second deletes
                async with self.flow.exclusive:
                    verdicts = await self.judge(short=short)
                    await self._carry_out(verdicts, swept)
        self._tell(verdicts, swept)
        return swept

    async def make_room(self) -> bool:
        """Let go at once what nobody needs; tell whether that was anything."""
        with contextlib.suppress(NodeAgentError):  # what lacks room is told by who lacks it
            return (await self.cycle(short=True)).paths > 0
        return False

    async def judge(self, *, short: bool = False) -> list[Verdict]:
        """Decide about every release that is here, and change nothing."""
        now, known = self.flow.report.clock(), self._generations()
        answers, verdicts = list[Answer](), list[Verdict]()
        for holder in self.holders:
            answers.append(await holder.ask(known))
            if len(answers) == 1:
                spare = [one for one in known if one.digest not in answers[0].needs]
                more = retention.newest(spare, 0 if short else self.keep)
                answers.append(Answer("newest", more))
            verdicts = retention.judge(known, answers, AT_ONCE if short else self.grace, now)
            if all(one.step is Step.KEEP for one in verdicts):
                break  # who else needs what stays need not be asked
        return verdicts

    async def bound_before(self, moment: datetime) -> list[str]:
        """Name the containers with our mounts that have run since before a moment."""
        found = [one for holder in self.holders for one in await holder.containers()]
        return sorted(one.name for one in found if one.started and one.started < moment)

    def explain(self, verdicts: Sequence[Verdict]) -> dict[str, str]:
        """Say of every valid path why it is there."""
        why = dict.fromkeys(
            sorted(self.flow.means.nix.valid()),
            "no release that this node has needs it; left alone",
        )
        kept_last = sorted(verdicts, key=lambda one: one.step is Step.KEEP)
        for verdict in kept_last:
            needs = f"release {digest12(verdict.digest)} needs it: {verdict.reason}"
            why.update(dict.fromkeys(self._paths([verdict.digest]) & why.keys(), needs))
        return why

    def _is_short(self) -> bool:
        return disk.percent_left(self.flow.means.files.store_dir) < self.ensure_free

    def _generations(self) -> list[Generation]:
        history, kept = self.flow.ledger.state.history.generations, self.flow.ledger.kept
        # The manifest goes last, and the disk may have been too full to note that it did.
        rooted = [one for one in history if (self.flow.means.files.roots / digest12(one)).exists()]
        digests = sorted({*kept, *rooted})
        remembered = {digest: history.get(digest, Remembered()) for digest in digests}
        return [Generation(key, one.spans, one.withdrawn) for key, one in remembered.items()]

    async def _carry_out(self, verdicts: Sequence[Verdict], swept: Swept) -> None:
        ledger, gates, now = self.flow.ledger, self.flow.gates, self.flow.report.clock()
        history = ledger.state.history
        for digest in history.generations.keys() - {one.digest for one in verdicts}:
            history = history.forget(digest)
        for verdict in verdicts:
            known = history.generations.get(verdict.digest, Remembered())
            if verdict.step is Step.WITHDRAW:
                gates.put_aside(verdict.digest)
                history = history.withdraw(verdict.digest, now)
            elif verdict.step is Step.KEEP and known.withdrawn is not None:
                gates.bring_back(verdict.digest)
                history = history.readmit(verdict.digest)
        ledger.remember(history, on_disk=False)
        going = [one.digest for one in verdicts if one.step is Step.DELETE]
        staying = [one.digest for one in verdicts if one.step is not Step.DELETE]
        if going:
            await self._delete(going, staying, swept)

    async def _delete(self, going: Sequence[str], staying: Sequence[str], swept: Swept) -> None:
        flow, files = self.flow, self.flow.means.files
        self._require_manifests(staying)
        needed = await asyncio.to_thread(self._paths, staying)
        candidates = await asyncio.to_thread(self._paths, going) - needed
        roots.drop(files.roots, map(digest12, going))
        roots.drop(files.pending, map(basename, candidates))
        if not files.shared.exists() and flow.means.nix.daemon is None:
            await collect.sweep(files, flow.means.nix, sorted(candidates), swept)
            flow.forget(candidates)
            candidates &= flow.means.nix.valid().keys()  # somebody roots them: tried again later
        else:
            candidates = set()
        for digest in going:
            flow.gates.forget(digest)
        gone = [one for one in going if candidates.isdisjoint(await self._read_paths(one))]
        for digest in gone:
            flow.ledger.forget(digest)
        if gone:
            alive = swept.alive[:3]
            self.logger.info(
                "collected", releases=gone, paths=swept.paths, bytes=swept.bytes, alive=alive
            )

    async def _read_paths(self, digest: str) -> set[str]:
        return await asyncio.to_thread(self._paths, [digest])

    def _require_manifests(self, digests: Sequence[str]) -> None:
        """Refuse to go on where it is not known what has to stay."""
        for digest in digests:
            if self.flow.ledger.manifest(digest) is None:
                raise NodeAgentError(
                    Reason.STORE_UNUSABLE,
                    f"the manifest of release {digest}, which stays, is gone from "
                    f"{self.flow.ledger.directory}; nothing is deleted until it is there again: "
                    "promote that release, or one after it",
                )

    def _paths(self, digests: Sequence[str]) -> set[str]:
        """Give the store paths of releases, as their manifests say."""
        paths = set[str]()
        for digest in digests:
            manifest = self.flow.ledger.manifest(digest)
            if manifest is not None:
                parsed = release.parse(manifest, digest)
                paths.update(*(system.paths for system in parsed.systems.values()))
        return paths

    def _tell(self, verdicts: Sequence[Verdict], swept: Swept) -> None:
        """Count what was done; a cycle in which somebody did not answer is a missed one."""
        metrics = self.flow.metrics
        metrics.paths_collected.inc(swept.paths)
        metrics.bytes_collected.inc(swept.bytes)
        metrics.releases.clear()
        for (step, by), count in Counter((one.step, one.by) for one in verdicts).items():
            metrics.releases.labels(step, by).set(count)
        if unsure := [one.reason for one in verdicts if one.unsure]:
            self._miss(unsure[0])
        else:
            self.missed, self._trouble = 0, ""
            metrics.collections_missed.set(0)
            metrics.last_collection.set(time.time())

    def _miss(self, why: str) -> None:
        """Note a cycle that could not do its work; told once, counted each time."""
        self.missed += 1
        self.flow.metrics.collections_missed.set(self.missed)
        if self.missed == STALLED:
            message = f"{STALLED} collections in a row could not do their work: {why}"
            self.flow.report.tell(Reason.COLLECTION_STALLED, message)
        if why != self._trouble:
            self._trouble = why
            self.logger.warning("nothing is collected", cause=why)
