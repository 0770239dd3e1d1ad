"""A Secret that is there already: read, and written only as it was read."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from nodeagent.errors import NodeAgentError
from nodeagent.kube.api import Api
from nodeagent.kube.faults import RefusedError
from nodeagent.names import Reason

_TEST_FAILED: Final = 422


@dataclass(frozen=True)
class Content:
    """What a Secret held at some version."""

    version: str
    data: Mapping[str, bytes]


@dataclass(frozen=True)
class Secret:
    """A Secret of the controller's namespace. It is never created: that right reaches too far.

    Who may create Secrets may create one with another account's token.
    """

    api: Api
    namespace: str
    name: str

    @property
    def path(self) -> str:
        """Where it lies."""
        return f"/api/v1/namespaces/{self.namespace}/secrets/{self.name}"

    async def read(self) -> Content:
        """Read it; raises ApiRefused where it is not there."""
        found = await there(self.api, self.path, f"the Secret {self.namespace}/{self.name}")
        data = {key: base64.b64decode(text) for key, text in (found.get("data") or {}).items()}
        return Content(found["metadata"]["resourceVersion"], data)

    async def write(self, data: Mapping[str, bytes], version: str) -> bool:
        """Put this in place of all that it held at that version; False if it has changed since."""
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        return await replace(self.api, self.path, "data", encoded, version)


async def there(api: Api, path: str, what: str) -> Any:  # noqa: ANN401 any JSON
    """Read what the manifests bring; raises ApiRefused where it is gone."""
    found = await api.find(path)
    if found is None:
        raise NodeAgentError(
            Reason.API_REFUSED, f"{what} is not there; apply daemonset/controller again"
        )
    return found


async def replace(api: Api, path: str, field: str, value: object, version: str) -> bool:
    """Set a field if the object still is of that version; tell whether it was."""
    operations: list[dict[str, Any]] = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
        {"op": "add", "path": f"/{field}", "value": value},
    ]
    try:
        await api.json_patch(path, operations)
    except RefusedError as error:
        if error.status != _TEST_FAILED:
            raise
        return False
    return True
