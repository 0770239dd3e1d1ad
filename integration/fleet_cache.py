"""The cache of a fleet: a server that nodes reach, and that can go away."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PORT: Final = 18080
WAIT_SECONDS: Final = 20.0


@dataclass
class CacheServer:
    """`nodeagent serve` of a directory, at an address of the host."""

    directory: Path
    host: str
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{PORT}"

    def start(self) -> None:
        """Serve; returns when it does."""
        self.directory.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "nodeagent", "serve", str(self.directory)]
        argv += ["--host", self.host, "--port", str(PORT)]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + WAIT_SECONDS
        while not self._answers():
            assert self._process.poll() is None, f"{self.url} cannot be served"
            assert time.monotonic() < end, f"{self.url} does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        """Go away."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Be away for a while."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, PORT), 1):
            return True
        return False
