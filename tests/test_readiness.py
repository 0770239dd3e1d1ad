import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.names import Reason
from nodeagent.readiness import Check, Evidence, is_ready, judge

PATHS = ["/nix/store/a", "/nix/store/b", "/nix/store/c", "/nix/store/d", "/nix/store/e"]
PROBLEM = (Reason.CACHE_UNREACHABLE, "cache main gave nothing")
LISTS = st.lists(st.sampled_from(PATHS), unique=True)
PROBLEMS = st.sampled_from([None, PROBLEM])
EVIDENCE = st.builds(Evidence, st.booleans(), LISTS, LISTS, LISTS, LISTS, PROBLEMS)


def check(name: str, evidence: Evidence) -> Check:
    (found,) = [one for one in judge(evidence) if one.name == name]
    return found


def test_a_published_and_whole_generation_is_ready() -> None:
    checks = judge(Evidence(published=True))
    assert is_ready(checks)
    assert all(one.ok and one.reason is None and not one.message for one in checks)


def test_nothing_published_is_not_ready() -> None:
    found = check("generation", Evidence(published=False))
    assert (found.ok, found.reason) == (False, Reason.NOTHING_PUBLISHED)
    assert found.message == "nothing is published yet"


def test_why_nothing_is_published_is_told() -> None:
    found = check("generation", Evidence(published=False, problem=PROBLEM))
    assert found.reason is Reason.CACHE_UNREACHABLE
    assert found.message == "nothing is published: cache main gave nothing"


def test_a_lost_path_is_told() -> None:
    found = check("store", Evidence(published=True, absent=PATHS[:1]))
    assert found.reason is Reason.PATH_DAMAGED
    assert "/nix/store/a" in found.message


def test_of_many_lost_paths_some_are_told_and_the_rest_counted() -> None:
    message = check("store", Evidence(published=True, absent=PATHS)).message
    assert message.startswith("5 published store paths are gone")
    assert "/nix/store/a, /nix/store/b, /nix/store/c and 2 more" in message


def test_damaged_paths_are_told_apart_from_lost_ones() -> None:
    message = check("store", Evidence(published=True, absent=PATHS[:1], damaged=PATHS[1:2])).message
    assert "1 published store paths are gone: /nix/store/a; " in message
    assert "1 published store paths are damaged: /nix/store/b; they are" in message


def test_a_shut_gate_is_told_by_profile() -> None:
    found = check("gates", Evidence(published=True, shut=["ds"]))
    assert found.message == "the gates of these profiles are shut: ds"


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(published=False),
        Evidence(published=True, absent=PATHS),
        Evidence(published=True, damaged=PATHS),
        Evidence(published=True, shut=["ds"]),
    ],
)
def test_what_pods_depend_on_decides(evidence: Evidence) -> None:
    assert not is_ready(judge(evidence))


@pytest.mark.parametrize(
    "evidence",
    [Evidence(published=True, conflicts=PATHS), Evidence(published=True, problem=PROBLEM)],
)
def test_what_pods_do_not_depend_on_is_told_and_does_not_decide(evidence: Evidence) -> None:
    checks = judge(evidence)
    assert is_ready(checks)
    (noted,) = [one for one in checks if not one.ok]
    assert noted.reason in {Reason.PATH_CONFLICT, Reason.CACHE_UNREACHABLE}
    assert noted.message


@given(EVIDENCE)
def test_a_node_is_ready_exactly_when_published_whole_and_open(evidence: Evidence) -> None:
    faults = (*evidence.absent, *evidence.damaged, *evidence.shut)
    assert is_ready(judge(evidence)) is (evidence.published and not faults)


@given(EVIDENCE)
def test_every_check_is_there_and_says_why_it_failed(evidence: Evidence) -> None:
    checks = judge(evidence)
    assert [one.name for one in checks] == ["generation", "store", "gates", "conflicts", "pass"]
    for one in checks:
        assert one.ok == (one.reason is None) == (not one.message)
