import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import plan
from nodeagent.plan import Plan, Step
from nodeagent.release import PathInfo, System
from nodeagent.space import Space
from tests import graphs

OTHER_HASH = graphs.info(255).nar_hash


class Case:
    """A closure, and a store in any state: paths valid, there, damaged, or of another hash."""

    def __init__(self, system: System, valid: set[str], there: set[str], damaged: set[str]) -> None:
        self.system, self.there, self.damaged = system, there, damaged
        self.valid = {path: system.paths[path].nar_hash for path in valid}

    @property
    def plan(self) -> Plan:
        return plan.diff(self.system, self.valid, self.there, self.damaged)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    paths = draw(graphs.dags())
    some = st.sets(st.sampled_from(sorted(paths))) if paths else st.just(set[str]())
    foreign = graphs.path(200)
    case = Case(graphs.system(paths), draw(some), draw(some) | {foreign}, draw(some))
    for path in (draw(some) & case.valid.keys()) | {foreign}:
        case.valid[path] = OTHER_HASH
    return case


@given(cases())
def test_steps_and_kept_are_the_closure_and_nothing_is_both(case: Case) -> None:
    steps = [step.path for step in case.plan.steps]
    assert sorted([*steps, *case.plan.kept]) == sorted(case.system.paths)


@given(cases())
def test_references_come_before_their_referrers(case: Case) -> None:
    done = set(case.plan.kept)
    for step in case.plan.steps:
        done.add(step.path)
        assert done >= set(step.info.references)


@given(cases())
def test_what_is_valid_and_there_and_whole_is_not_fetched(case: Case) -> None:
    whole = (case.valid.keys() & case.there) - case.damaged
    assert case.plan.kept == whole & case.system.paths.keys()


@given(cases())
def test_what_is_damaged_is_fetched_whatever_the_database_says(case: Case) -> None:
    steps = {step.path: step for step in case.plan.steps}
    for path in case.damaged:
        assert not steps[path].on_disk


@given(cases())
def test_what_lies_there_unregistered_is_looked_at_before_it_is_fetched(case: Case) -> None:
    adopted = {step.path for step in case.plan.steps if step.on_disk}
    there = case.there & case.system.paths.keys()
    assert adopted == there - case.valid.keys() - case.damaged


@given(cases())
def test_a_kept_path_of_another_hash_is_told_as_a_conflict(case: Case) -> None:
    other = {path for path in case.plan.kept if case.valid[path] == OTHER_HASH}
    assert case.plan.conflicts == tuple(sorted(other))


@given(graphs.dags())
def test_a_new_node_fetches_all(paths: dict[str, PathInfo]) -> None:
    made = plan.diff(graphs.system(paths), {}, set())
    assert made.kept == frozenset()
    assert made.bytes == sum(info.nar_size for info in paths.values())


@given(graphs.dags())
def test_a_node_that_holds_all_has_nothing_to_do(paths: dict[str, PathInfo]) -> None:
    valid = {path: info.nar_hash for path, info in paths.items()}
    made = plan.diff(graphs.system(paths), valid, paths.keys())
    assert made == Plan((), frozenset(paths))
    assert made.bytes == 0


def test_a_registered_path_that_is_gone_is_fetched() -> None:
    system = graphs.system({graphs.path(1): graphs.info(1)})
    made = plan.diff(system, {graphs.path(1): graphs.info(1).nar_hash}, set())
    assert [(step.path, step.on_disk) for step in made.steps] == [(graphs.path(1), False)]


@given(cases(), st.data())
def test_room_is_needed_for_what_is_neither_staged_nor_there(
    case: Case, data: st.DataObject
) -> None:
    steps = case.plan.steps
    staged = {step.path for step in steps if data.draw(st.booleans())}
    new = [step for step in steps if step.path not in staged and not step.on_disk]
    needed = plan.need(case.plan, staged)
    assert needed.bytes >= sum(step.info.nar_size for step in new)
    assert needed.inodes == 2 * len(new)
    assert bool(needed.bytes) == bool(new)


def test_the_margin_grows_with_the_plan_and_is_what_is_shown() -> None:
    big = graphs.info(1).model_copy(update={"nar_size": 800 << 20})
    needed = plan.need(Plan((Step(graphs.path(1), big),), frozenset()), set())
    assert needed == Space(916 << 20, 2)
    assert str(needed) == "916 MiB, 2 inodes"


@pytest.mark.parametrize(
    ("free", "enough"),
    [
        (Space(100, 10), True),
        (Space(100, None), True),
        (Space(99, 10), False),
        (Space(99, None), False),
        (Space(100, 9), False),
    ],
)
def test_bytes_and_inodes_must_both_fit(free: Space, enough: bool) -> None:
    assert plan.fits(Space(100, 10), free) is enough
    assert plan.fits(Space(100, None), free) is (free.bytes >= 100)


def test_where_inodes_are_not_counted_none_are_shown() -> None:
    assert str(Space(1 << 20, None)) == "1 MiB"
