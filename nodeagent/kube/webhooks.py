"""The webhook configuration, of which nothing is written but whom API servers shall trust."""

import base64
from dataclasses import dataclass
from typing import Final

from nodeagent.errors import NodeAgentError
from nodeagent.kube.api import Api
from nodeagent.kube.node import FORBIDDEN
from nodeagent.kube.secrets import there
from nodeagent.names import Reason

_VERSION: Final = "admissionregistration.k8s.io/v1"


@dataclass(frozen=True)
class WebhookConfiguration:
    """A MutatingWebhookConfiguration that is there already."""

    api: Api
    name: str

    @property
    def path(self) -> str:
        """Where it lies."""
        return f"/apis/{_VERSION}/mutatingwebhookconfigurations/{self.name}"

    async def bundles(self) -> dict[str, str]:
        """Read the trusted certificates, in PEM, of each webhook in it; raises ApiRefused."""
        found = await there(self.api, self.path, f"the MutatingWebhookConfiguration {self.name}")
        return {
            one["name"]: base64.b64decode(one["clientConfig"].get("caBundle", "")).decode(
                errors="replace"
            )
            for one in found.get("webhooks", ())
        }

    async def is_guarded(self) -> bool:
        """Tell whether a policy refuses what we may not write, by asking for it without effect."""
        forbidden = {
            "apiVersion": _VERSION,
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": self.name, "labels": {FORBIDDEN: "true"}},
        }
        try:
            await self.api.apply(self.path, forbidden, dry=True)
        except NodeAgentError as error:
            if error.reason is Reason.API_REFUSED:
                return True
            raise
        return False

    async def trust(self, bundle: str) -> None:
        """Let all of its webhooks be trusted by this; raises ApiRefused if it changes meanwhile.

        Nothing else of it is touched: each entry is named to prove that it is where it was.
        """
        encoded = base64.b64encode(bundle.encode()).decode()
        operations = [
            operation
            for number, name in enumerate(await self.bundles())
            for operation in (
                {"op": "test", "path": f"/webhooks/{number}/name", "value": name},
                {
                    "op": "add",
                    "path": f"/webhooks/{number}/clientConfig/caBundle",
                    "value": encoded,
                },
            )
        ]
        await self.api.json_patch(self.path, operations)
