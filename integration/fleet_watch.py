"""A watch for tests: every version of some objects, as the API server told them."""

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from integration.cluster import Cluster

AGAIN_SECONDS: Final = 0.1
Tree = dict[str, Any]


@dataclass(frozen=True)
class Version:
    """An object as it was told; `at` is the unix time of its arrival."""

    at: float
    kind: str
    object: Tree

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])


@dataclass
class Watch:
    """Collects versions in a thread; where the API server goes away, it goes on from there."""

    cluster: Cluster
    path: str
    versions: list[Version] = field(default_factory=list)
    _last: str = ""
    _ended: bool = False
    _process: subprocess.Popen[str] | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator["Watch"]:
        """Watch; at the end everything that happened so far has been seen."""
        thread = threading.Thread(target=self._forever, name=f"watch {self.path}")
        thread.start()
        try:
            self.cluster.until(f"seen: {self.path}", lambda: bool(self.versions))
            yield self
            self.cluster.until(f"caught up: {self.path}", self._caught_up)
        finally:
            self._ended = True
            self.reconnect()
            thread.join()

    def reconnect(self) -> None:
        """Drop the connection: that of a machine whose plug was pulled would stay for ever."""
        if (process := self._process) is not None:
            process.terminate()

    def _caught_up(self) -> bool:
        listed = self._get()
        now = {one["metadata"]["uid"]: _number(one) for one in listed.get("items", ())}
        seen = {one.object["metadata"]["uid"]: _number(one.object) for one in self.versions}
        return bool(listed) and all(seen.get(uid, -1) >= number for uid, number in now.items())

    def _list(self) -> bool:
        listed = self._get()
        for one in listed.get("items", ()):
            self.versions.append(Version(time.time(), "LISTED", one))
        self._last = listed.get("metadata", {}).get("resourceVersion", "")
        return bool(self._last)

    def _get(self) -> Tree:
        """List the objects; nothing if the API server gives no answer."""
        done = self.cluster.kubectl("get", "--raw", self.path, check=False)
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def _forever(self) -> None:
        while not self._ended:
            self._through()
            time.sleep(AGAIN_SECONDS)

    def _through(self) -> None:
        """Read one connection to its end; without a version to go on from, list first."""
        if not self._last and not self._list():
            return
        query = f"{self.path}?watch=1&resourceVersion={self._last}"
        kubectl = self.cluster.programs / "kubectl"
        with subprocess.Popen(
            [kubectl, "--kubeconfig", self.cluster.kubeconfig, "get", "--raw", query],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as self._process:
            assert self._process.stdout is not None
            if self._ended:
                self._process.terminate()
            for line in self._process.stdout:
                if line.endswith("\n"):  # Else it was cut off.
                    self._take(json.loads(line))

    def _take(self, event: Tree) -> None:
        if event["type"] == "ERROR":  # What came after the last version is forgotten there.
            self._last = ""
            return
        self._last = event["object"]["metadata"]["resourceVersion"]
        self.versions.append(Version(time.time(), event["type"], event["object"]))


def _number(tree: Tree) -> int:
    return int(tree["metadata"]["resourceVersion"])
