"""Prometheus metrics, in a registry of their own: one object per process, nothing global."""

from collections.abc import Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    generate_latest,
)

from nodeagent import __version__
from nodeagent.names import ControllerMetric, Metric, Outcome, Phase, Reason

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

HELP: Final[dict[Metric, str]] = {
    Metric.READY: "1 if a published generation is intact",
    Metric.CHECK: "1 if this check of /healthz holds",
    Metric.PHASE: "1 for what the agent is doing now",
    Metric.PUBLISHED_INFO: "The published release, by digest and channel",
    Metric.WANTED_INFO: "The release that the pins select, by digest and channel",
    Metric.SERIAL: "Serial of the published channel record",
    Metric.PASSES: "Passes by result",
    Metric.REFUSALS: "Pins, records, releases and paths refused, by reason",
    Metric.PASS_SECONDS: "Duration of passes",
    Metric.PATHS_POURED: "Store paths brought and registered",
    Metric.BYTES_POURED: "Bytes of NAR brought, unpacked",
    Metric.BYTES_TODO: "Bytes of NAR that the running pass has still to bring",
    Metric.LAST_SUCCESS: "Unix time of the last pass that succeeded",
    Metric.BYTES_SCRUBBED: "Bytes of NAR whose contents the scrub hashed anew",
    Metric.SCRUB_DAMAGED: "Store paths that the scrub found damaged",
    Metric.LAST_SCRUB: "Unix time of the last scrub of all contents that ended",
    Metric.SCRUB_PATHS_DUE: "Store paths that the scrub has still to read now",
    Metric.SCRUB_BYTES_DUE: "Bytes of NAR that the scrub has still to read now",
    Metric.SCRUB_RATE: "Bytes of NAR a second that the scrub's period demands",
    Metric.SCRUB_OLDEST: "Unix time when the contents that wait longest were last known whole",
    Metric.RELEASES: "Releases on the node, by what becomes of them and who keeps them",
    Metric.PATHS_COLLECTED: "Store paths that were deleted",
    Metric.BYTES_COLLECTED: "Bytes of NAR that were deleted",
    Metric.COLLECTION_SECONDS: "Duration of collections",
    Metric.COLLECTIONS_MISSED: "Collections in a row that could not do their work",
    Metric.LAST_COLLECTION: "Unix time of the last collection that did",
    Metric.BUILD_INFO: "The running nodeagent",
}

CONTROLLER_HELP: Final[dict[ControllerMetric, str]] = {
    ControllerMetric.ADMISSIONS: "Pods reviewed, by what became of them",
    ControllerMetric.ADMISSION_SECONDS: "From a review that is read to its answer",
    ControllerMetric.WEBHOOK_REQUESTS: "HTTP requests to the webhook, by status",
    ControllerMetric.SNAPSHOT_AGE: "Since a watched resource last gave a sign of life",
    ControllerMetric.SNAPSHOT_OBJECTS: "Objects in the snapshot",
    ControllerMetric.CERTIFICATE_EXPIRY: "Unix time at which a certificate expires",
    ControllerMetric.POLICY_VALID: "1 if there is a policy and it could be read",
    ControllerMetric.BREAKER_OPEN: "Namespaces into which the breaker lets nothing be injected",
    ControllerMetric.BUILD_INFO: HELP[Metric.BUILD_INFO],
}
ADMISSION_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)


class Metrics:
    """Every metric of one agent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.ready = self._gauge(Metric.READY)
        self.serial = self._gauge(Metric.SERIAL)
        self.bytes_todo = self._gauge(Metric.BYTES_TODO)
        self.last_success = self._gauge(Metric.LAST_SUCCESS)
        self.check = self._gauge(Metric.CHECK, "check")
        self._phase = self._gauge(Metric.PHASE, "phase")
        self._published = self._gauge(Metric.PUBLISHED_INFO, "digest", "channel")
        self._wanted = self._gauge(Metric.WANTED_INFO, "digest", "channel")
        self._passes = self._counter(Metric.PASSES, "result")
        self._refusals = self._counter(Metric.REFUSALS, "reason")
        self.paths_poured = self._counter(Metric.PATHS_POURED)
        self.bytes_poured = self._counter(Metric.BYTES_POURED)
        self.bytes_scrubbed = self._counter(Metric.BYTES_SCRUBBED)
        self.scrub_damaged = self._counter(Metric.SCRUB_DAMAGED)
        self.last_scrub = self._gauge(Metric.LAST_SCRUB)
        self.scrub_paths_due = self._gauge(Metric.SCRUB_PATHS_DUE)
        self.scrub_bytes_due = self._gauge(Metric.SCRUB_BYTES_DUE)
        self.scrub_rate = self._gauge(Metric.SCRUB_RATE)
        self.scrub_oldest = self._gauge(Metric.SCRUB_OLDEST)
        self.pass_seconds = Summary(
            Metric.PASS_SECONDS, HELP[Metric.PASS_SECONDS], registry=self.registry
        )
        self.releases = self._gauge(Metric.RELEASES, "step", "by")
        self.paths_collected = self._counter(Metric.PATHS_COLLECTED)
        self.bytes_collected = self._counter(Metric.BYTES_COLLECTED)
        self.collections_missed = self._gauge(Metric.COLLECTIONS_MISSED)
        self.last_collection = self._gauge(Metric.LAST_COLLECTION)
        self.collection_seconds = Summary(
            Metric.COLLECTION_SECONDS, HELP[Metric.COLLECTION_SECONDS], registry=self.registry
        )
        self._gauge(Metric.BUILD_INFO, "version").labels(__version__).set(1)

    def phase(self, now: Phase) -> None:
        """Mark the one phase that is on."""
        for phase in Phase:
            self._phase.labels(phase).set(phase is now)

    def published(self, digest: str, channel: str, serial: int) -> None:
        """Tell which release is published."""
        self._published.clear()
        self._published.labels(digest, channel).set(1)
        self.serial.set(serial)

    def wanted(self, digest: str, channel: str) -> None:
        """Tell which release is wanted."""
        self._wanted.clear()
        self._wanted.labels(digest, channel).set(1)

    def passed(self, result: str) -> None:
        """Count a pass: `published`, `preempted` or `failed`."""
        self._passes.labels(result).inc()

    def refused(self, reason: Reason) -> None:
        """Count a refusal."""
        self._refusals.labels(reason).inc()

    def render(self) -> bytes:
        """Write the text exposition format."""
        return generate_latest(self.registry)

    def _gauge(self, name: Metric, *labels: str) -> Gauge:
        return Gauge(name, HELP[name], labels, registry=self.registry)

    def _counter(self, name: Metric, *labels: str) -> Counter:
        return Counter(name.removesuffix("_total"), HELP[name], labels, registry=self.registry)


class ControllerMetrics:
    """Every metric of one controller."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._admissions = self._counter(ControllerMetric.ADMISSIONS, "outcome")
        self._requests = self._counter(ControllerMetric.WEBHOOK_REQUESTS, "code")
        self.admission_seconds = Histogram(
            ControllerMetric.ADMISSION_SECONDS,
            CONTROLLER_HELP[ControllerMetric.ADMISSION_SECONDS],
            buckets=ADMISSION_BUCKETS,
            registry=self.registry,
        )
        self._age = self._gauge(ControllerMetric.SNAPSHOT_AGE, "resource")
        self._objects = self._gauge(ControllerMetric.SNAPSHOT_OBJECTS, "resource")
        self._expiry = self._gauge(ControllerMetric.CERTIFICATE_EXPIRY, "certificate")
        self.policy_valid = self._gauge(ControllerMetric.POLICY_VALID)
        self.breaker_open = self._gauge(ControllerMetric.BREAKER_OPEN)
        self._gauge(ControllerMetric.BUILD_INFO, "version").labels(__version__).set(1)
        for outcome in Outcome:
            self._admissions.labels(outcome)  # so that a first one is a rise, too

    def admitted(self, outcome: Outcome) -> None:
        """Count a review."""
        self._admissions.labels(outcome).inc()

    def answered(self, status: int) -> None:
        """Count an HTTP request."""
        self._requests.labels(status).inc()

    def snapshot(self, ages: Mapping[str, float], objects: Mapping[str, int]) -> None:
        """Tell how old the snapshot is, in seconds, and how large, by resource."""
        for resource, age in ages.items():
            self._age.labels(resource).set(age)
        for resource, count in objects.items():
            self._objects.labels(resource).set(count)

    def certificates(self, expiries: Mapping[str, float]) -> None:
        """Tell when certificates expire, in unix seconds."""
        for certificate, expiry in expiries.items():
            self._expiry.labels(certificate).set(expiry)

    def render(self) -> bytes:
        """Write the text exposition format."""
        return generate_latest(self.registry)

    def _gauge(self, name: ControllerMetric, *labels: str) -> Gauge:
        return Gauge(name, CONTROLLER_HELP[name], labels, registry=self.registry)

    def _counter(self, name: ControllerMetric, *labels: str) -> Counter:
        return Counter(
            name.removesuffix("_total"), CONTROLLER_HELP[name], labels, registry=self.registry
        )
