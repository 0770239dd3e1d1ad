"""What others see of the controller: whether it can be asked, and its metrics."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from nodeagent.certs import Certificates, FileCertificates
from nodeagent.fleet import RESOURCES, Snapshot
from nodeagent.webhook.app import Webhook


@dataclass(frozen=True)
class ControllerView:
    """The parts, and what they say together; the endpoints look at nothing else."""

    snapshot: Snapshot
    certificates: Certificates | FileCertificates
    webhook: Webhook
    clock: Callable[[], float] = time.time

    def missing(self) -> dict[str, str]:
        """Say what stands against being asked, by what it concerns."""
        found = {}
        if not self.snapshot.whole:
            found["snapshot"] = self._unheard()
        if not self.certificates.ready.is_set():
            problem = self.certificates.problem
            found["certificate"] = problem.message if problem else "there is none yet"
        if self.webhook.leaving:
            found["process"] = "it was told to end"
        return found

    def metrics(self) -> bytes:
        """Give the text exposition."""
        metrics, now = self.webhook.metrics, self.clock()
        fleet = self.snapshot.fleet()
        metrics.snapshot(
            {resource: max(0.0, now - at) for resource, at in fleet.heard.items()},
            self.snapshot.objects,
        )
        metrics.certificates(self.certificates.expires)
        policy = self.snapshot.policy is not None and self.snapshot.policy_problem is None
        metrics.policy_valid.set(policy)
        metrics.breaker_open.set(len(fleet.broken))
        return metrics.render()

    def _unheard(self) -> str:
        heard = self.snapshot.fleet().heard
        missing = [resource for resource in RESOURCES if resource not in heard]
        problems = {one.message for one in self.snapshot.problems.values()}
        return "; ".join([f"not listed yet: {', '.join(missing)}", *sorted(problems)])
