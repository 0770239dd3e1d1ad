"""Requests to the API server, and what can come of them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
from aiohttp.http_exceptions import LineTooLong
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException, Configuration
from kubernetes.aio.dynamic import DynamicClient

from nodeagent.errors import NodeAgentError
from nodeagent.kube import faults
from nodeagent.kube.faults import BusyError, LostError, RefusedError, SilentError
from nodeagent.names import FIELD_MANAGER, Reason

REQUEST_SECONDS: Final = 10.0
_STREAM: Final = aiohttp.ClientTimeout(total=None)  # its lines have their own
_APPLY: Final = "application/apply-patch+yaml"
_JSON_PATCH: Final = "application/json-patch+json"

Body = Mapping[str, Any]
T = TypeVar("T")


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

    `renew` reads the credentials anew, `answers` counts requests that succeeded.
    """

    client: ApiClient
    renew: Callable[[], Awaitable[None]] | None = None
    answers: int = 0
    _closed_until: float = 0.0

    async def get(self, path: str, **query: Any) -> Any:  # noqa: ANN401 any JSON
        """Read; raises ApiUnreachable or ApiRefused."""
        return await self._request("get", path, **query)

    async def find(self, path: str, **query: Any) -> Any | None:  # noqa: ANN401 any JSON
        """Read what may not be there: None, then."""
        try:
            return await self.get(path, **query)
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

    async def lines(self, path: str, silence: float, **query: Any) -> AsyncGenerator[bytes, None]:  # noqa: ANN401 any query
        """Read an answer line by line while it comes: a watch. Close it: it is a connection.

        What is cut off in the middle of a line is left out. Raises what `get` does, SilentError
        after that many seconds without a line, and LostError at one that is too long to be held.
        """
        self._respect_wait("get", path)
        with self._explained("get", path):
            answer = await self._renewing(lambda: self._open("get", path, _STREAM, **query))
        self.answers += 1
        try:
            while True:
                with self._explained("get", path):
                    line = await _line(path, answer, silence)
                if not line.endswith(b"\n"):
                    return
                yield line
        finally:
            answer.close()

    async def _request(self, method: str, path: str, **parameters: Any) -> Any:  # noqa: ANN401 the library's
        self._respect_wait(method, path)
        with self._explained(method, path):
            return await self._renewing(lambda: self._once(method, path, **parameters))

    @contextlib.contextmanager
    def _explained(self, method: str, path: str) -> Iterator[None]:
        """Tell what goes wrong inside as a failure of ours."""
        try:
            yield
        except LineTooLong:
            raise LostError(
                f"GET {path}: a line is too long to be held; this is read anew"
            ) from None
        except ApiException as error:
            failure = faults.explain(method, path, error)
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

    async def _renewing(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask, and once more if the credentials were refused and there are new ones."""
        try:
            return await ask()
        except ApiException as error:
            if error.status != 401 or not await self._renewed():
                raise
            return await ask()

    async def _once(self, method: str, path: str, **parameters: Any) -> Any:  # noqa: ANN401 the library's
        async with asyncio.timeout(REQUEST_SECONDS):
            answer = await self._open(method, path, REQUEST_SECONDS, **parameters)
            parsed = await answer.json()
        self.answers += 1
        return parsed

    async def _open(
        self,
        method: str,
        path: str,
        timeout: float | aiohttp.ClientTimeout,  # noqa: ASYNC109 the client's, for all of the answer
        **parameters: Any,  # noqa: ANN401 the library's
    ) -> aiohttp.ClientResponse:
        """Send a request and await the head of its answer."""
        asked = [*parameters.pop("query_params", ())]  # the library adds to it, at each try
        async with asyncio.timeout(REQUEST_SECONDS):
            answer: aiohttp.ClientResponse = await DynamicClient(self.client).request(
                *(method, path),
                serialize=False,
                query_params=asked,
                _request_timeout=timeout,
                **parameters,
            )
        return answer

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


async def _line(path: str, answer: aiohttp.ClientResponse, silence: float) -> bytes:
    try:
        async with asyncio.timeout(silence):
            return await answer.content.readline()
    except TimeoutError:
        raise SilentError(f"GET {path} has said nothing for {silence:g} s") from None
