"""What can come of a request to the API server: it refuses, is busy, or has lost the thread."""

import contextlib
import json
from http import HTTPStatus
from typing import Final

from kubernetes.aio.client import ApiException

from nodeagent.errors import NodeAgentError
from nodeagent.names import NODE_STORE_VERSION, Reason

WAIT_SECONDS: Final = 120.0  # the longest that a server may ask for by Retry-After
_UNKNOWN: Final = "field not declared in schema"  # an older CRD's: a refusal, though it says 500
_AGAIN: Final = frozenset({408, 409, 410, 429})  # it may be otherwise the next time


class RefusedError(NodeAgentError):
    """The API server says no; `status` is its own, 401 where it does not know who asks."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(Reason.API_REFUSED, message)
        self.status = status


class LostError(NodeAgentError):
    """What was read before is no longer known there, or what comes next is no use: begin anew."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.API_UNREACHABLE, message)


class SilentError(NodeAgentError):
    """An answer that goes on says nothing: who gives it may be gone, or have nothing to say."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.API_UNREACHABLE, message)


class BusyError(NodeAgentError):
    """The API server asks to be left alone for `wait` seconds."""

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(Reason.API_UNREACHABLE, message)
        self.wait = wait


def explain(method: str, path: str, error: ApiException) -> NodeAgentError:
    """Say what an answer that is no success means for whoever asked."""
    message = _message(error)
    text = f"{method.upper()} {path}: {error.status} {error.reason}: {message}"
    if (error.status >= 500 and _UNKNOWN not in message) or error.status in _AGAIN:
        again = f"{text}; this is tried again"
        if error.status == HTTPStatus.GONE:
            return LostError(again)
        if (wait := _wait(error)) > 0:
            return BusyError(again, wait)
        return NodeAgentError(Reason.API_UNREACHABLE, again)
    advice = _advice(path, error.status)
    return RefusedError(f"the API server refused {text}; {advice}", error.status)


def _advice(path: str, status: int) -> str:
    if status == 401:
        return "the token is read anew at each try; while it stays refused, delete the agent's pod"
    if status in {400, 404, 422, 500} and NODE_STORE_VERSION in path:
        return "if it lasts, compare the CRD with the one in daemonset/base"
    return "compare its rights with those in daemonset/"


def _wait(error: ApiException) -> float:
    """Give the seconds of Retry-After, 0 without."""
    with contextlib.suppress(ValueError):  # a date
        return min(max(int((error.headers or {}).get("Retry-After", 0)), 0), WAIT_SECONDS)
    return 0.0


def _message(error: ApiException) -> str:
    """Give the message of a Status object, or the first of what else was said."""
    body = error.body if isinstance(error.body, str) else ""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(body)["message"])
    return body[:200]
