"""Where benches run."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Room:
    """Where to measure, how often and how long; `memory` is a tmpfs, `disk` is none.

    `kubeconfig` leads to an API server that a bench may fill. At another `scale` than 1 the figures
    mean nothing: that is for trying the benches.
    """

    memory: Path
    disk: Path
    runs: int
    idle_seconds: float
    scale: float = 1.0
    kubeconfig: Path | None = None
