"""A node's life as a state machine of Hypothesis: what is used or rooted stays, the rest goes.

Each step is one thing that happens to a node: a promotion, a pod, a collection, a reboot; the agent
may end at any effect, or find its disk full.
"""

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from integration import small_node
from integration.faults import Fault, Fuse
from integration.small_node import GRACE, NUMBERS, RELEASES, SYSTEMS, Agent, SmallNode
from nodeagent import pins, promote
from nodeagent.agent import flow
from nodeagent.release import digest12

MEMORY: Final = Path("/dev/shm")
QUIET_CYCLES: Final = 6

RARELY: Final = st.sampled_from([False, False, False, True])
RARE: Final = ["look", "roll", "silence", "silence", "root", "restart", "reboot", "room", "room"]
MOST_CONTAINERS: Final = 2  # for the next to end

numbers = st.integers(0, RELEASES - 1)
newer = st.one_of(st.none(), st.none(), st.none(), numbers)
faults = st.one_of(
    st.none(),
    st.none(),
    st.none(),
    st.none(),
    st.builds(Fault, st.integers(0, 70), full=st.booleans()),
)
periods = st.sampled_from([1, 30, 290, 310, 1000, 1000, 4000]).map(
    lambda seconds: timedelta(seconds=seconds)
)


class Collection(RuleBasedStateMachine):
    """A node's life; `must` is what was valid of what shall not be lost, by who needs it."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.root = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        fuse = Fuse(self.patch)
        self.node = SmallNode(self.root, fuse)
        self.patch.setattr(flow, "realise", self.node.pour)
        self.foreign: dict[str, str] = {}
        self.must: dict[str, set[str]] = {}
        self.made = 0

    def teardown(self) -> None:
        try:
            self.all_comes_back()
        finally:
            self.patch.undo()
            self.node.close()
            shutil.rmtree(self.root)

    def fresh(self, kind: str) -> str:
        self.made += 1
        return f"{kind}{self.made}"

    # What happens, the most telling most often

    @rule(number=numbers, later=periods, fault=faults, newer=newer, beside=RARELY)
    def release(
        self, number: int, later: timedelta, fault: Fault | None, newer: int | None, beside: bool
    ) -> None:
        """Promote; maybe something newer comes in the middle, or a collection wants to begin."""
        self.node.now += later
        self.node.promote(number)
        if newer is not None:
            self.node.newer = lambda: self.node.overtake(newer)
        self.turn(fault, beside=beside)

    def turn(self, fault: Fault | None, *, beside: bool = False) -> None:
        """Let the agent look at its pins, and once more where it was overtaken."""
        if self.channel is None:
            return
        done = self.node.act(small_node.turn_beside_cycle if beside else small_node.turn, fault)
        done = done and self.node.act(small_node.turn, None)
        self.node.newer = None
        if done and not self.node.fuse.full:
            assert self.agent.flow.report.problem is None
            assert self.published == self.wanted

    @rule(later=periods, profile=st.sampled_from(["ds", "ml"]), delay=st.sampled_from([0, 3, 250]))
    def start_container(self, later: timedelta, profile: str, delay: int) -> None:
        self.node.now += later
        self.node.bind(self.fresh("c"), profile, timedelta(seconds=delay))

    @precondition(lambda self: len(self.node.containers_) > MOST_CONTAINERS)
    @rule(data=st.data())
    def end_container(self, data: st.DataObject) -> None:
        del self.node.containers_[data.draw(st.sampled_from(sorted(self.node.containers_)))]

    @rule(later=periods, short=RARELY, fault=faults, raced=RARELY)
    def collect(self, later: timedelta, short: bool, fault: Fault | None, raced: bool) -> None:
        """Collect; maybe somebody roots a path right before Nix deletes it."""
        self.node.now += later
        if raced and not self.foreign:
            self.node.fuse.before_delete = lambda paths: self.add_root(paths[0])
        self.node.act(lambda agent: agent.collecting.cycle(short=short), fault)
        self.node.fuse.before_delete = lambda _: None

    @rule(what=st.sampled_from(RARE), number=numbers, fault=faults)
    def something_rarer(self, what: str, number: int, fault: Fault | None) -> None:
        node, valid = self.node, sorted(self.node.valid())
        match what:
            case "roll" if self.channel is not None and self.channel.previous is not None:
                promote.set_percent(node.settings.pins, "stable", 100 * (number % 2))
                self.turn(fault)
            case "look":
                self.turn(fault)
            case "silence":
                node.silent = number % 2 == 0
            case "root":
                for name in self.foreign:
                    (node.files.roots.parent / name).unlink()
                self.foreign.clear()
                if valid and number:  # more than one would keep everything
                    self.add_root(valid[number % len(valid)])
            case "restart":
                node.stop()
            case "reboot":
                node.reboot()
            case "room":
                node.fuse.full = False

    def add_root(self, path: str) -> None:
        name = self.fresh("root")
        (self.node.files.roots.parent / name).symlink_to(path)
        self.foreign[name] = path

    # What is always so

    @property
    def agent(self) -> Agent:
        assert self.node.agent is not None
        return self.node.agent

    @property
    def channel(self) -> pins.Channel | None:
        file = self.node.settings.pins
        return pins.parse(file.read_bytes()).channels["stable"] if file.exists() else None

    @property
    def published(self) -> int | None:
        held = self.agent.flow.ledger.state.held
        return NUMBERS[digest12(held.release)] if held else None

    @property
    def wanted(self) -> int | None:
        wanted = self.agent.flow.report.wanted
        return NUMBERS[digest12(wanted.release)] if wanted else None

    def rollback(self) -> set[int]:
        """Give what the pins name, as far as the agent has taken it."""
        channel = self.channel
        if channel is None:
            return set()
        accepted = self.agent.flow.ledger.accepted("stable", 0).identities
        pair = [one for one in (channel.current, channel.previous) if one is not None]
        taken = [one.peek().release for one in pair if one.identity in accepted]
        return {NUMBERS[digest12(one)] for one in taken} if pair[0].identity in accepted else set()

    def taken(self) -> set[int]:
        """Give the two releases that the agent took last."""
        accepted = self.agent.flow.ledger.state.channels["stable"].accepted
        releases = dict.fromkeys(one.peek().release for one in reversed(accepted))
        return {NUMBERS[digest12(one)] for one in [*releases][:2]}

    def got_last(self, others: set[int]) -> set[int]:
        """Give what is kept beside others: the releases that pods began last to get."""
        known = self.agent.flow.ledger.state.history.generations.items()
        begun = {
            NUMBERS[digest12(key)]: max(span.since for span in one.spans)
            for key, one in known
            if one.spans
        }
        return {*sorted(begun.keys() - others, key=lambda one: begun[one])[-small_node.KEEP :]}

    def needed(self) -> dict[str, set[str]]:
        """Say what may not be lost from now on, by whom."""
        needed = {
            name: small_node.closure(one.number, one.profile)
            for name, one in self.node.containers_.items()
        }
        if self.node.agent is not None:
            releases = self.rollback() | {
                one for one in (self.published, self.wanted) if one is not None
            }
            needed |= {f"release {one}": set(SYSTEMS[one].paths) for one in releases}
        else:
            needed |= {who: self.must[who] for who in self.must if who.startswith("release")}
        return needed | {name: small_node.below(path) for name, path in self.foreign.items()}

    @invariant()
    def what_is_needed_is_not_lost(self) -> None:
        valid = self.node.valid()
        needed = self.needed()
        for who, paths in needed.items():
            lost = self.must.get(who, set()) - valid
            assert not lost, f"{who} lost {lost}"
            if who in self.node.containers_:
                assert paths <= valid, f"{who} lost {paths - valid}"
        self.must = {who: paths & valid for who, paths in needed.items()}

    @invariant()
    def open_gates_lead_to_whole_releases(self) -> None:
        if self.node.gates.store.is_symlink():
            for profile, short in self.node.gates.open():
                needed = small_node.closure(NUMBERS[short], profile)
                assert needed <= self.node.valid()
                assert self.node.gates.profile(profile).is_dir()

    @invariant()
    def what_lies_in_the_store_is_whole(self) -> None:
        Collection.steps += 1
        assert [*self.node.unsound()] == []

    # In the end

    def all_comes_back(self) -> None:
        """End what uses releases; then exactly what is wanted, kept or rooted is left."""
        node = self.node
        node.fuse.full = node.silent = False
        node.containers_.clear()
        if self.channel is None:
            return
        self.turn(None)
        self.quiet()
        self.exactly_what_is_needed()
        for name in [*self.foreign]:
            (node.files.roots.parent / name).unlink()
        self.foreign.clear()
        self.quiet()
        self.exactly_what_is_needed()

    def quiet(self) -> None:
        for _ in range(QUIET_CYCLES):
            self.node.now += GRACE
            assert self.node.act(lambda agent: agent.collecting.cycle(), None)

    def exactly_what_is_needed(self) -> None:
        assert self.published is not None
        kept = self.rollback() | {self.published, *self.taken()}
        kept |= {NUMBERS[short] for _, short in self.node.gates.open()}
        kept |= self.got_last(kept)
        paths = set().union(*(SYSTEMS[one].paths for one in kept))
        paths |= set().union(*(small_node.below(path) for path in self.foreign.values()))
        assert self.node.valid() <= paths, f"{self.node.valid() - paths} did not go"
        left = {one.name for one in self.node.files.roots.iterdir()} - {"pending"}
        left |= {one.name.strip(".") for one in (self.node.gates.run_dir / "releases").iterdir()}
        if not self.foreign:  # what somebody roots is tried again
            left |= {digest12(one) for one in self.agent.flow.ledger.kept}
        assert left <= {digest12(small_node.DIGESTS[one]) for one in kept}
