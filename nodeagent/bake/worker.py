"""A bake worker: one process, because dumping a tree holds the interpreter's lock.

Run as `python -m nodeagent.bake.worker DIRECTORY`; jobs on stdin, events on stdout.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

from nodeagent.bake.jobs import Event, Failed, Job, Progress, read_job
from nodeagent.bake.pack import Damaged, Packed, pack
from nodeagent.messages import encode

_PR_SET_PDEATHSIG: Final = 1
_SAY_EVERY_SECONDS: Final = 0.1


class Worker:
    """Works off jobs, and says at a bearable rate how far it is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.unsaid, self.said_at = 0, time.monotonic()

    def work(self, job: Job) -> Packed | Failed:
        """Do one job; every expected failure is a value."""
        self.unsaid = 0
        tree = os.fsencode(job.tree)
        try:
            return pack(tree, job.nar_hash, job.nar_size, self.directory, self._progress)
        except Damaged as error:
            return Failed(str(error), fatal=False)
        except OSError as error:
            return Failed(str(error), fatal=True)

    def _progress(self, count: int) -> None:
        self.unsaid += count
        if time.monotonic() - self.said_at > _SAY_EVERY_SECONDS:
            say(Progress(self.unsaid))
            self.unsaid, self.said_at = 0, time.monotonic()


def say(event: Event) -> None:
    """Tell the build."""
    sys.stdout.buffer.write(encode(event))
    sys.stdout.buffer.flush()


def main() -> None:
    """Work until stdin ends, or the build does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    worker = Worker(Path(sys.argv[1]))
    for line in sys.stdin.buffer:
        say(worker.work(read_job(line)))


if __name__ == "__main__":
    main()
