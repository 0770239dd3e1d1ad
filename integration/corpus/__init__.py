"""Pods that an API server accepts: written by hand, as controllers make them, and generated.

The label `outcome` says what admission shall do with one; without it, the pod is injected.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from integration.corpus import generated

Pod = dict[str, Any]
GENERATED: Final = 120


def pods() -> Iterator[Pod]:
    """Give them all, each time anew."""
    for file in sorted(Path(__file__).parent.glob("*.yaml")):
        yield from yaml.safe_load_all(file.read_text())
    yield from generated.pods(GENERATED)
