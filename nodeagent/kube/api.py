"""Requests to the API server, and what can come of them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException, Configuration
from kubernetes.aio.dynamic import DynamicClient

from nodeagent.errors import NodeAgentError
from nodeagent.names import FIELD_MANAGER, NODE_STORE_VERSION, Reason

REQUEST_SECONDS: Final = 10.0
WAIT_SECONDS: Final = 120.0  # the longest that a server may ask for by Retry-After
_UNKNOWN: Final = "field not declared in schema"  # an older CRD's: a refusal, though it says 500
_AGAIN: Final = frozenset({408, 409, 410, 429})  # it may be otherwise the next time
_APPLY: Final = "application/apply-patch+yaml"
_JSON_PATCH: Final = "application/json-patch+json"

Body = Mapping[str, Any]


class RefusedError(NodeAgentError):
    """The API server says no; `status` is its own, 401 where it does not know who asks."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(Reason.API_REFUSED, message)
        self.status = status


class BusyError(NodeAgentError):
    """The API server asks to be left alone for `wait` seconds."""

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(Reason.API_UNREACHABLE, message)
        self.wait = wait


@contextlib.asynccontextmanager
async def connected(kubeconfig: Path | None = None) -> AsyncIterator["Api"]:
    """Own a client with the pod's own account, or a kubeconfig's; nothing is asked yet.

    Raises SettingInvalid where there are no usable credentials.
    """
    settings = Configuration()
    await _load(settings, kubeconfig)
    with _named(kubeconfig):
        client = ApiClient(settings)
    async with client:
        yield Api(client, lambda: _load(settings, kubeconfig))


async def _load(settings: Configuration, kubeconfig: Path | None) -> None:
    """Read address and credentials."""
    with _named(kubeconfig):
        if kubeconfig is None:
            config.load_incluster_config(client_configuration=settings)
        else:
            await config.load_kube_config(
                config_file=str(kubeconfig), client_configuration=settings
            )


@contextlib.contextmanager
def _named(kubeconfig: Path | None) -> Iterator[None]:
    """Say whose credentials are unusable."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 a malformed file makes the library stumble in many ways
        source = kubeconfig or "this pod's service account"
        cause = " ".join(f"{error}".split()) or type(error).__name__
        raise NodeAgentError(
            Reason.SETTING_INVALID,
            f"no way to the API server by {source}: {cause}; give --kubeconfig or --kubernetes off",
        ) from None


@dataclass
class Api:
    """The verbs that nodeagent uses; paths begin with /api or /apis.

    `renew` reads the credentials anew, `answers` counts requests that succeeded. Nothing is watched
    and no list goes on from an earlier one, so no version can be too old.
    """

    client: ApiClient
    renew: Callable[[], Awaitable[None]] | None = None
    answers: int = 0
    _closed_until: float = 0.0

    async def get(self, path: str, **query: str) -> Any:  # noqa: ANN401 any JSON
        """Read; raises ApiUnreachable or ApiRefused."""
        return await self._request("get", path, **query)

    async def find(self, path: str) -> Any | None:  # noqa: ANN401 any JSON
        """Read what may not be there: None, then."""
        try:
            return await self.get(path)
        except RefusedError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None

    async def create(self, path: str, body: Body) -> None:
        """Create an object in a collection."""
        await self._request("post", path, body=body, field_manager=FIELD_MANAGER)

    async def apply(self, path: str, body: Body, *, dry: bool = False) -> Any:  # noqa: ANN401 any JSON
        """Apply, server-side, as the one who decides about these fields; gives the object.

        A `dry` one has no effect, but is refused like any other.
        """
        return await self._request(
            "patch",
            path,
            body=body,
            content_type=_APPLY,
            field_manager=FIELD_MANAGER,
            force_conflicts=True,
            dry_run="All" if dry else None,
        )

    async def json_patch(self, path: str, operations: list[dict[str, Any]]) -> None:
        """Patch with a JSON patch; a `test` that fails is ApiRefused."""
        await self._request(
            "patch",
            path,
            body=operations,
            content_type=_JSON_PATCH,
            field_manager=FIELD_MANAGER,
        )

    async def delete(self, path: str) -> None:
        """Delete an object."""
        await self._request("delete", path)

    async def _request(self, method: str, path: str, **parameters: Any) -> Any:  # noqa: ANN401 the library's
        self._respect_wait(method, path)
        try:
            try:
                return await self._once(method, path, **parameters)
            except ApiException as error:
                if error.status != 401 or not await self._renewed():
                    raise
                return await self._once(method, path, **parameters)
        except ApiException as error:
            failure = _refused(method, path, error)
            if isinstance(failure, BusyError):
                self._closed_until = asyncio.get_running_loop().time() + failure.wait
            raise failure from None
        except (
            *(aiohttp.ClientError, TimeoutError, OSError, ValueError),
            config.ConfigException,  # the token's file is empty while somebody writes it
        ) as error:
            raise NodeAgentError(
                Reason.API_UNREACHABLE,
                f"the API server gave no answer to {method.upper()} {path}: "
                f"{str(error) or type(error).__name__}; this is tried again",
            ) from None

    async def _once(self, method: str, path: str, **parameters: Any) -> Any:  # noqa: ANN401 the library's
        async with asyncio.timeout(REQUEST_SECONDS):
            answer = await DynamicClient(self.client).request(
                method,
                path,
                serialize=False,
                _request_timeout=REQUEST_SECONDS,
                **parameters,
            )
            parsed = await answer.json()
        self.answers += 1
        return parsed

    async def _renewed(self) -> bool:
        """Read the credentials anew; tell whether there are others than those just refused.

        The library does so once a minute by the machine's clock, which may be set back.
        """
        if self.renew is None:
            return False
        keys = self.client.configuration.api_key
        before = dict(keys)
        with contextlib.suppress(NodeAgentError):  # somebody is writing them: the next try sees
            await self.renew()
        return dict(keys) != before

    def _respect_wait(self, method: str, path: str) -> None:
        left = self._closed_until - asyncio.get_running_loop().time()
        if left > 0:
            raise BusyError(
                f"{method.upper()} {path} waits for {left:.0f} s, as the API server asked for", left
            )


def _refused(method: str, path: str, error: ApiException) -> NodeAgentError:
    message = _message(error)
    text = f"{method.upper()} {path}: {error.status} {error.reason}: {message}"
    if (error.status >= 500 and _UNKNOWN not in message) or error.status in _AGAIN:
        again = f"{text}; this is tried again"
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
    return "compare the rights in daemonset/base"


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
