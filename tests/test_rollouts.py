"""Whatever is promoted and rolled back, nodes follow: pins, selection and ledger together."""

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nodeagent import keys, pins, promote, select
from nodeagent.ledger import Ledger
from nodeagent.names import Reason
from nodeagent.pins import Channel
from nodeagent.promote import Promotion
from nodeagent.select import Node, Refusal, Wanted
from tests.handmade import DAY, NOW, RELEASE_KEY, Item, manifest, path
from tests.nars import File

TRUSTED: Final = keys.parse_public([RELEASE_KEY.public])
MANIFESTS: Final = [manifest(Item(path("ds"), File(b"%d" % number))) for number in range(4)]
PERCENTS: Final = st.sampled_from([0, 1, 10, 50, 90, 99, 100]) | st.integers(0, 100)
NODES: Final = 3


class Rollouts(RuleBasedStateMachine):
    """A channel's life, and some nodes that look at it now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.root = Path(self.scratch.name)
        self.file = self.root / "pins.json"
        self.now = NOW
        self.ledgers: list[Ledger] = []

    @initialize()
    def install(self) -> None:
        for number in range(NODES):
            directory = self.root / f"node-{number}"
            directory.mkdir()
            self.ledgers.append(Ledger(directory))

    def teardown(self) -> None:
        self.scratch.cleanup()

    @property
    def channel(self) -> Channel:
        return pins.parse(self.file.read_bytes()).channels["stable"]

    @rule(release=st.sampled_from(MANIFESTS), percent=PERCENTS, hours=st.integers(0, 48))
    def promote(self, release: bytes, percent: int, hours: int) -> None:
        self.now += timedelta(hours=hours)
        one = Promotion(release, "ml", "stable", ["main"], 1000 * DAY, percent)
        promote.promote(self.file, one, RELEASE_KEY, self.now)

    @precondition(lambda self: self.file.exists())
    @rule(percent=PERCENTS)
    def move(self, percent: int) -> None:
        if percent == promote.WHOLE or self.channel.previous is not None:
            promote.set_percent(self.file, "stable", percent)

    @precondition(lambda self: self.file.exists())
    @rule(number=st.integers(0, NODES - 1))
    def look(self, number: int) -> None:
        """One node takes what it is told to, as the agent's turn does."""
        chosen = self.choose(number)
        if isinstance(chosen, Wanted):
            self.ledgers[number].accept(chosen)

    def choose(self, number: int) -> Wanted | Refusal:
        node = Node(f"node-{number}", "ml", "stable", TRUSTED)
        accepted = self.ledgers[number].accepted("stable", 0)
        return select.choose(pins.parse(self.file.read_bytes()), node, accepted, self.now)

    @invariant()
    def every_node_could_take_what_the_pins_say(self) -> None:
        if not self.file.exists():
            return
        standing = self.channel
        current = standing.current.peek()
        for number in range(len(self.ledgers)):
            chosen = self.choose(number)
            inside = select.bucket(f"node-{number}", current.serial) < standing.percent
            if isinstance(chosen, Wanted):
                expected = standing.current if inside else standing.previous
                assert chosen.envelope == expected
            else:
                assert chosen.reason is Reason.OUTSIDE_ROLLOUT
                assert not inside
                assert standing.previous is None

    @invariant()
    def the_previous_record_is_the_older_one(self) -> None:
        if self.file.exists() and self.channel.previous is not None:
            assert self.channel.previous.peek().serial < self.channel.current.peek().serial


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
