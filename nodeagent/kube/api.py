"""Requests to the API server, and what can come of them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException, Configuration
from kubernetes.aio.dynamic import DynamicClient

from nodeagent.errors import NodeAgentError
from nodeagent.names import FIELD_MANAGER, Reason

REQUEST_SECONDS: Final = 10.0
_APPLY: Final = "application/apply-patch+yaml"
_JSON_PATCH: Final = "application/json-patch+json"

Body = Mapping[str, Any]


@contextlib.asynccontextmanager
async def connected(kubeconfig: Path | None = None) -> AsyncIterator["Api"]:
    """Own a client with the pod's own account, or a kubeconfig's; nothing is asked yet.

    Raises SettingInvalid where there are no usable credentials.
    """
    settings = Configuration()
    try:
        if kubeconfig is None:
            config.load_incluster_config(client_configuration=settings)
        else:
            await config.load_kube_config(
                config_file=str(kubeconfig), client_configuration=settings
            )
        client = ApiClient(settings)
    except Exception as error:  # noqa: BLE001 a malformed file makes the library stumble in many ways
        source = kubeconfig or "this pod's service account"
        cause = " ".join(f"{error}".split()) or type(error).__name__
        raise NodeAgentError(
            Reason.SETTING_INVALID,
            f"no way to the API server by {source}: {cause}; give --kubeconfig or --kubernetes off",
        ) from None
    async with client:
        yield Api(client)


@dataclass(frozen=True)
class Api:
    """The verbs that nodeagent uses; paths begin with /api or /apis."""

    client: ApiClient

    async def get(self, path: str, **query: str) -> Any:  # noqa: ANN401 any JSON
        """Read; raises ApiUnreachable or ApiRefused."""
        return await self._request("get", path, **query)

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

    async def _request(self, method: str, path: str, **parameters: Any) -> Any:  # noqa: ANN401 the library's
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                answer = await DynamicClient(self.client).request(
                    method,
                    path,
                    serialize=False,
                    _request_timeout=REQUEST_SECONDS,
                    **parameters,
                )
                return await answer.json()
        except ApiException as error:
            raise _refused(method, path, error) from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise NodeAgentError(
                Reason.API_UNREACHABLE,
                f"the API server gave no answer to {method.upper()} {path}: "
                f"{str(error) or type(error).__name__}; this is tried again",
            ) from None


def _refused(method: str, path: str, error: ApiException) -> NodeAgentError:
    text = f"{method.upper()} {path}: {error.status} {error.reason}: {_message(error)}"
    if error.status >= 500 or error.status == 429:
        return NodeAgentError(Reason.API_UNREACHABLE, f"{text}; this is tried again")
    return NodeAgentError(
        Reason.API_REFUSED, f"the API server refused {text}; compare the rights in daemonset/base"
    )


def _message(error: ApiException) -> str:
    """Give the message of a Status object, or the first of what else was said."""
    body = error.body if isinstance(error.body, str) else ""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(body)["message"])
    return body[:200]
