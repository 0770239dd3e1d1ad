import pytest
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from nodeagent import __version__, metrics
from nodeagent.metrics import Metrics
from nodeagent.names import Metric, Phase, Reason
from tests.handmade import digest


@pytest.fixture
def told() -> Metrics:
    """Give metrics that have all been used."""
    made = Metrics()
    made.phase(Phase.IDLE)
    made.published(digest(7), "stable", 7)
    made.wanted(digest(8), "stable")
    made.passed("published")
    made.refused(Reason.PINS_MISSING)
    made.pass_seconds.observe(1.5)
    return made


def families(told: Metrics) -> dict[str, Family]:
    """Read the exposition back; when a counter was made is Prometheus' own business."""
    found = text_string_to_metric_families(told.render().decode())
    return {one.name: one for one in found if not one.name.endswith("_created")}


def values(told: Metrics, name: Metric) -> dict[tuple[str, ...], float]:
    (family,) = [one for key, one in families(told).items() if key == name.removesuffix("_total")]
    return {
        tuple(sample.labels[name] for name in sorted(sample.labels)): sample.value
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_every_metric_is_one_of_the_names_and_every_name_a_metric(told: Metrics) -> None:
    assert families(told).keys() == {name.removesuffix("_total") for name in Metric}


def test_every_metric_says_what_it_is(told: Metrics) -> None:
    assert metrics.HELP.keys() == set(Metric)
    for name, family in families(told).items():
        assert family.documentation, name


def test_names_follow_prometheus(told: Metrics) -> None:
    kinds = {name: family.type for name, family in families(told).items()}
    for name in Metric:
        assert (kinds[name.removesuffix("_total")] == "counter") == name.endswith("_total")


def test_one_phase_is_on(told: Metrics) -> None:
    told.phase(Phase.POURING)
    on = values(told, Metric.PHASE)
    assert on.keys() == {(phase,) for phase in Phase}
    assert [phase for (phase,), value in on.items() if value] == [Phase.POURING]


def test_only_the_newest_release_is_told(told: Metrics) -> None:
    told.published(digest(8), "stable", 8)
    told.wanted(digest(9), "canary")
    assert values(told, Metric.PUBLISHED_INFO) == {("stable", digest(8)): 1.0}
    assert values(told, Metric.WANTED_INFO) == {("canary", digest(9)): 1.0}
    assert values(told, Metric.SERIAL) == {(): 8.0}


def test_passes_and_refusals_are_counted_by_what_they_were(told: Metrics) -> None:
    told.passed("failed")
    told.passed("failed")
    told.refused(Reason.NAR_CORRUPT)
    assert values(told, Metric.PASSES) == {("published",): 1.0, ("failed",): 2.0}
    assert values(told, Metric.REFUSALS) == {("PinsMissing",): 1.0, ("NarCorrupt",): 1.0}


def test_the_version_is_told(told: Metrics) -> None:
    assert values(told, Metric.BUILD_INFO) == {(__version__,): 1.0}


def test_two_agents_in_one_process_do_not_count_together() -> None:
    one, other = Metrics(), Metrics()
    one.paths_poured.inc()
    assert values(other, Metric.PATHS_POURED) == {(): 0.0}
