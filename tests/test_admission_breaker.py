from nodeagent.admission.breaker import (
    MANY_SECONDS,
    ONE_SECONDS,
    REFUSED_SECONDS,
    Refused,
    Stuck,
    broken,
)

NOW = 1_000_000.0


def stuck(*seconds: float, namespace: str = "team") -> list[Stuck]:
    return [Stuck(namespace, NOW - one) for one in seconds]


def test_without_trouble_it_is_closed() -> None:
    assert broken([], [], NOW) == frozenset()


def test_one_pod_opens_it_only_after_long() -> None:
    assert broken(stuck(ONE_SECONDS - 1), [], NOW) == frozenset()
    assert broken(stuck(ONE_SECONDS), [], NOW) == {"team"}


def test_three_pods_open_it_sooner_and_two_do_not() -> None:
    assert broken(stuck(*[MANY_SECONDS] * 2), [], NOW) == frozenset()
    assert broken(stuck(*[MANY_SECONDS] * 3), [], NOW) == {"team"}
    assert broken(stuck(MANY_SECONDS, MANY_SECONDS, 1), [], NOW) == frozenset()


def test_each_namespace_has_its_own() -> None:
    mixed = [*stuck(*[MANY_SECONDS] * 2), *stuck(*[MANY_SECONDS] * 3, namespace="other")]
    assert broken(mixed, [], NOW) == {"other"}


def test_a_refused_creation_opens_it_for_a_while() -> None:
    assert broken([], [Refused("team", NOW - 1)], NOW) == {"team"}
    assert broken([], [Refused("team", NOW - REFUSED_SECONDS)], NOW) == frozenset()
