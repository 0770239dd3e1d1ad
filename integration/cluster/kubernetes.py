"""What tests ask the API server, and how they wait for it."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from integration.cluster.binaries import binaries
from integration.cluster.commands import TIMEOUT_SECONDS, ClusterError, Completed, run

WAIT_SECONDS: Final = 180.0
POLL_SECONDS: Final = 0.1
READY: Final = (
    "jsonpath={range .items[*]}{.metadata.name}="
    '{.status.conditions[?(@.type=="Ready")].status} {end}'
)


class Kubernetes:
    """A cluster's admin; `directory` is the cluster's state, with the kubeconfig in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kubeconfig = directory / "admin.kubeconfig"

    @functools.cached_property
    def programs(self) -> Path:
        """The directory of kubectl and all other programs, compiled if needed."""
        return binaries()

    @property
    def logs(self) -> Path:
        """Where the logs are when the cluster is down."""
        return self.directory.with_suffix(".logs")

    def kubectl(
        self,
        *args: str,
        stdin: str | None = None,
        check: bool = True,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Completed:
        """Run kubectl; with `check`, a failure is a ClusterError with what it said."""
        argv: list[str | Path] = [self.programs / "kubectl", "--kubeconfig", self.kubeconfig, *args]
        return run(argv, stdin=stdin, check=check, timeout=timeout)

    def until(self, what: str, test: Callable[[], bool], *, seconds: float = WAIT_SECONDS) -> None:
        """Wait until a test holds; raises ClusterError that names the logs.

        A test that fails with a ClusterError, as when no API server answers, is asked again.
        """
        end = time.monotonic() + seconds
        error = ""
        while True:
            try:
                if test():
                    return
            except ClusterError as failed:
                error = f"; the last error: {failed}"
            if time.monotonic() > end:
                raise ClusterError(f"not {what} after {seconds:.0f} s{error}; {self._where()}")
            time.sleep(POLL_SECONDS)

    def until_ready(self, *nodes: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until nodes are Ready."""
        wanted = {f"{node}=True" for node in nodes}
        self.until(
            f"ready: {' '.join(nodes)}", lambda: wanted <= self._readiness(), seconds=seconds
        )

    def until_lost(self, node: str, *, seconds: float = WAIT_SECONDS) -> None:
        """Wait until the loss of a node is noticed."""
        lost = {f"{node}=False", f"{node}=Unknown"}
        self.until(f"lost: {node}", lambda: bool(lost & self._readiness()), seconds=seconds)

    def until_rolled_out(
        self, workload: str, *, namespace: str = "default", seconds: float = WAIT_SECONDS
    ) -> None:
        """Wait until all pods of a workload (`daemonset/name`) are Ready."""
        self._wait("rollout", "status", workload, namespace=namespace, seconds=seconds)

    def until_condition(
        self,
        condition: str,
        *objects: str,
        namespace: str = "default",
        seconds: float = WAIT_SECONDS,
    ) -> None:
        """Wait for what `kubectl wait --for` takes."""
        self._wait("wait", f"--for={condition}", *objects, namespace=namespace, seconds=seconds)

    def answers(self, *what: str) -> bool:
        """Whether `kubectl get` succeeds."""
        return self.kubectl("get", *what, check=False).returncode == 0

    def _wait(self, *args: str, namespace: str, seconds: float) -> None:
        try:
            self.kubectl(
                *(f"--namespace={namespace}", *args, f"--timeout={seconds:.0f}s"),
                timeout=seconds + TIMEOUT_SECONDS,  # Its own time-out says more.
            )
        except ClusterError as error:
            pods = self.kubectl("get", "pods", "--all-namespaces", "-o", "wide", check=False).stdout
            raise ClusterError(f"{error}; {self._where()}; pods:\n{pods}") from None

    def _readiness(self) -> set[str]:
        return set(self.kubectl("get", "nodes", "-o", READY, check=False).stdout.split())

    def _where(self) -> str:
        return f"logs: {self.directory}/machines/*/var/log, when the cluster is down {self.logs}"
