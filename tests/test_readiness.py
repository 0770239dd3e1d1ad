import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.names import LABEL_PROFILE_PREFIX, LABEL_READY, Reason
from nodeagent.readiness import (
    SUSPECT_SECONDS,
    Check,
    Evidence,
    condition,
    is_ready,
    judge,
    labels,
    of_late,
    suspicion,
)

PATHS = ["/nix/store/a", "/nix/store/b", "/nix/store/c", "/nix/store/d", "/nix/store/e"]
PROBLEM = (Reason.CACHE_UNREACHABLE, "cache main gave nothing")
LISTS = st.lists(st.sampled_from(PATHS), unique=True)
PROBLEMS = st.sampled_from([None, PROBLEM])
PROFILES = st.frozensets(st.sampled_from(["a", "b", "c", "d"]))
HELD = st.frozensets(
    st.sampled_from([LABEL_READY, *(f"{LABEL_PROFILE_PREFIX}{name}" for name in "abcdef")])
)
SPOILT = st.dictionaries(st.sampled_from(PATHS), st.integers(0, 2_000_000_000))
EVIDENCE = st.builds(
    Evidence,
    *(st.booleans(), LISTS, LISTS, LISTS, LISTS, PROBLEMS),
    closed=LISTS,
    spoilt=SPOILT,
)


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
        Evidence(published=True, closed=["/nix/store"]),
    ],
)
def test_what_pods_depend_on_decides(evidence: Evidence) -> None:
    assert not is_ready(judge(evidence))


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(published=True, conflicts=PATHS),
        Evidence(published=True, problem=PROBLEM),
        Evidence(published=True, unguarded=True),
    ],
)
def test_what_pods_do_not_depend_on_is_told_and_does_not_decide(evidence: Evidence) -> None:
    checks = judge(evidence)
    assert is_ready(checks)
    (noted,) = [one for one in checks if not one.ok]
    known = {Reason.PATH_CONFLICT, Reason.CACHE_UNREACHABLE, Reason.POLICY_NOT_ENFORCED}
    assert noted.reason in known
    assert noted.message


@given(EVIDENCE)
def test_a_node_is_ready_exactly_when_published_whole_and_open(evidence: Evidence) -> None:
    faults = (*evidence.absent, *evidence.damaged, *evidence.shut, *evidence.closed)
    assert is_ready(judge(evidence)) is (evidence.published and not faults)


@given(EVIDENCE)
def test_every_check_is_there_and_says_why_it_failed(evidence: Evidence) -> None:
    checks = judge(evidence)
    assert [one.name for one in checks] == [
        "generation",
        "store",
        "gates",
        "selinux",
        "conflicts",
        "pass",
        "policy",
        "disk",
    ]
    for one in checks:
        assert one.ok == (one.reason is None) == (not one.message)


@given(EVIDENCE)
def test_the_condition_is_the_checks_that_pods_depend_on(evidence: Evidence) -> None:
    checks = judge(evidence)
    found = condition(checks, "release 7")
    failed = [one for one in checks if one.needed and not one.ok]
    assert found.ready is is_ready(checks)
    assert found.reason == (failed[0].reason if failed else "Published")
    assert all(one.message in found.message for one in failed)


def test_a_ready_condition_names_the_release_and_what_to_look_at() -> None:
    assert condition(judge(Evidence(published=True)), "it").message == "it is published"
    noted = Evidence(published=True, conflicts=PATHS, problem=PROBLEM)
    found = condition(judge(noted), "it")
    assert found.message == "it is published; but see CacheUnreachable, PathConflict"


@given(EVIDENCE, st.text())
def test_a_ready_condition_does_not_change_with_the_wording(evidence: Evidence, text: str) -> None:
    other = Evidence(published=True, conflicts=evidence.conflicts, problem=(PROBLEM[0], text))
    same = Evidence(published=True, conflicts=evidence.conflicts[::-1], problem=PROBLEM)
    assert condition(judge(other), "it") == condition(judge(same), "it")


def test_a_disk_is_suspect_once_three_paths_went_bad_and_the_node_stays_ready() -> None:
    spoilt = dict.fromkeys(PATHS[:3], 1_780_000_000)
    for count, suspect in ((2, False), (3, True)):
        some = dict(list(spoilt.items())[:count])
        checks = judge(Evidence(published=True, spoilt=some))
        assert is_ready(checks)
        assert (suspicion(checks) is not None) is suspect
    found = suspicion(judge(Evidence(published=True, spoilt=spoilt | {PATHS[3]: 1_780_000_600})))
    assert found is not None
    assert (found.ready, found.reason) == (True, "RepeatedDamage")
    assert "the contents of 4 store paths went bad since 2026-05-28T20:26:40Z" in found.message
    assert all(path in found.message for path in PATHS[:3])


@given(EVIDENCE)
def test_nothing_but_spoilt_paths_makes_a_disk_suspect(evidence: Evidence) -> None:
    assert (suspicion(judge(evidence)) is not None) == (len(evidence.spoilt) >= 3)


def test_what_went_bad_a_week_ago_counts_no_more() -> None:
    spoilt = {"/nix/store/old": 1000, "/nix/store/new": 1001}
    assert of_late(spoilt, 1000 + SUSPECT_SECONDS) == {"/nix/store/new": 1001}


def label(*profiles: str) -> set[str]:
    return {f"{LABEL_PROFILE_PREFIX}{name}" for name in profiles}


def test_a_node_gets_a_label_for_each_profile_and_one_for_all() -> None:
    assert labels(set(), {"a", "b"}, set(), removable=False) == {LABEL_READY, *label("a", "b")}


def test_a_node_that_never_had_a_whole_profile_gets_no_label() -> None:
    for removable in (True, False):
        assert labels(set(), set(), set(), removable=removable) == set()
        assert labels(set(), {"a"}, {"a"}, removable=removable) == set()


def test_a_lost_profile_takes_its_label_and_the_last_one_takes_ready() -> None:
    held = {LABEL_READY, *label("a", "b")}
    assert labels(held, {"a", "b"}, {"a"}, removable=True) == {LABEL_READY, *label("b")}
    assert labels(held, {"a", "b"}, {"a", "b"}, removable=True) == set()


@given(HELD, PROFILES, PROFILES, st.booleans())
def test_no_label_goes_but_those_of_lost_profiles(
    held: frozenset[str], published: frozenset[str], some: frozenset[str], removable: bool
) -> None:
    lost = some & published
    gone = held - labels(held, published, lost, removable=removable)
    assert gone - {LABEL_READY} <= label(*lost)
    assert LABEL_READY not in gone or (lost and lost == published)


@given(HELD, PROFILES, PROFILES)
def test_no_label_goes_before_it_may(
    held: frozenset[str], published: frozenset[str], some: frozenset[str]
) -> None:
    lost = some & published
    kept = labels(held, published, lost, removable=False)
    assert kept >= held
    assert kept >= labels(held, published, lost, removable=True)


@given(HELD, PROFILES)
def test_without_a_loss_no_label_ever_goes(held: frozenset[str], published: frozenset[str]) -> None:
    found = labels(held, published, frozenset(), removable=True)
    assert found == held | label(*published) | ({LABEL_READY} if published else set())


@given(HELD, PROFILES, PROFILES, st.booleans())
def test_labels_that_are_as_they_shall_be_stay(
    held: frozenset[str], published: frozenset[str], some: frozenset[str], removable: bool
) -> None:
    lost = some & published
    once = labels(held, published, lost, removable=removable)
    assert labels(once, published, lost, removable=removable) == once


@given(HELD, HELD, PROFILES, PROFILES, PROFILES, st.booleans())
def test_who_has_more_keeps_more(
    held: frozenset[str],
    more_held: frozenset[str],
    published: frozenset[str],
    more_published: frozenset[str],
    some: frozenset[str],
    removable: bool,
) -> None:
    lost = some & published
    less = labels(held, published, lost, removable=removable)
    more = labels(held | more_held, published | more_published, lost, removable=removable)
    assert less <= more
