"""What admission decides about one pod."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodeagent.names import Outcome

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Decision:
    """An outcome and why, in a sentence; `patch` is a JSON patch (RFC 6902) of `add` alone.

    `warning` is shown to whoever made the pod, where that person can do something.
    """

    outcome: Outcome
    message: str = ""
    patch: tuple[Object, ...] = ()
    warning: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a pod is left alone: an outcome and a sentence."""

    outcome: Outcome
    message: str
