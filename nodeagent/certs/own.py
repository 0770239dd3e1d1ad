"""Our own certificates: CAs in a Secret, a certificate in the memory of each replica.

Each replica reads the Secret and signs for itself. What is lacking there, or in the webhook
configuration, the one that gets the Lease adds: a CA is published before anyone signs with it.
Where nothing is lacking, nothing is written. What cannot be read changes nothing.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from nodeagent import log
from nodeagent.certs import plan, x509
from nodeagent.certs.plan import Authority, Leaf
from nodeagent.certs.serving import Serving
from nodeagent.errors import NodeAgentError
from nodeagent.kube.lease import Lease
from nodeagent.kube.secrets import Content, Secret
from nodeagent.kube.webhooks import WebhookConfiguration
from nodeagent.names import Reason

KEY: Final = "authorities.json"
LOOK_SECONDS: Final = 120.0
HURRY_SECONDS: Final = 5.0  # while there is no certificate; twice as long each time, up to
PATIENT_SECONDS: Final = 30.0
STEPS: Final = 3  # make a CA, publish it, note that it is


@dataclass(frozen=True)
class Places:
    """Where in the cluster all of it lies."""

    secret: Secret
    configuration: WebhookConfiguration
    lease: Lease


class Certificates(Serving):
    """Keep a certificate for these hosts, signed by a CA that API servers trust."""

    def __init__(
        self, places: Places, hosts: Sequence[str], clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self.problem: NodeAgentError | None = None
        self._places, self._hosts, self._clock = places, tuple(hosts), clock
        self._authorities: tuple[Authority, ...] = ()
        self._leaf: Leaf | None = None
        self._is_guarded = False

    async def run(self) -> None:
        """Look after them until cancelled; trouble is told and tried again."""
        pause = HURRY_SECONDS
        while True:
            try:
                await self.look()
                self._tell(await self._unguarded())
            except NodeAgentError as error:
                self._tell(error)
                self._is_guarded = False  # who was away may be another one now
            await asyncio.sleep(LOOK_SECONDS if self.ready.is_set() else pause)
            pause = min(2 * pause, PATIENT_SECONDS)

    async def look(self) -> None:
        """Read, add what is lacking if that is this replica's turn, and serve."""
        try:
            await self._read()
            if await self._is_lacking():
                async with self._places.lease.held() as is_held:
                    if is_held:
                        await self._complete()
        finally:
            self._serve()  # also without an API server a certificate has to be renewed

    async def _read(self) -> Content:
        secret = self._places.secret
        content = await secret.read()
        where = f"{KEY} in the Secret {secret.namespace}/{secret.name}"
        self._authorities = plan.parse(content.data.get(KEY), where)
        return content

    async def _is_lacking(self) -> bool:
        """Tell whether there is something to write."""
        return (
            plan.lacks_authority(self._authorities, self._now())
            or not await self._is_published()
            or any(one.published is None for one in self._authorities)
        )

    async def _is_published(self) -> bool:
        bundle = plan.bundle(self._authorities)
        return all(one == bundle for one in (await self._places.configuration.bundles()).values())

    async def _complete(self) -> None:
        """Do what is lacking, step by step; each looks anew, for others may have been here."""
        for _ in range(STEPS):
            content = await self._read()
            authorities, now = self._authorities, self._now()
            if plan.lacks_authority(authorities, now):
                authorities = plan.succeeded(authorities, os.urandom(32), now)
            elif not await self._is_published():
                await self._places.configuration.trust(plan.bundle(authorities))
                log.get().info("authorities published", count=len(authorities))
                continue
            else:
                authorities = plan.published(authorities, now)
            if authorities == self._authorities:
                return
            if await self._places.secret.write({KEY: plan.dump(authorities)}, content.version):
                log.get().info("authorities written", count=len(authorities))
                self._authorities = authorities

    def _serve(self) -> None:
        """Sign anew where that is due."""
        now = self._now()
        authority = plan.signer(self._authorities, now)
        if authority is None or not plan.is_due(self._leaf, authority, now):
            return
        leaf = plan.sign(authority, os.urandom(32), now)
        self.load(leaf.chain(self._hosts), x509.private_key(leaf.seed))
        self._leaf = leaf
        self.expires.update(leaf=leaf.until, authority=authority.until)
        log.get().info("certificate signed", authority=authority.issuer.name, expires=leaf.until)

    async def _unguarded(self) -> NodeAgentError | None:
        """Ask, until it is so, whether the account is kept from writing more than this."""
        configuration = self._places.configuration
        self._is_guarded = self._is_guarded or await configuration.is_guarded()
        if self._is_guarded:
            return None
        return NodeAgentError(
            Reason.POLICY_NOT_ENFORCED,
            "the API server would let this account change all of the MutatingWebhookConfiguration "
            f"{configuration.name}; apply daemonset/controller/policy.yaml, with the controller's "
            "namespace in it",
        )

    def _tell(self, problem: NodeAgentError | None) -> None:
        """Log what is new in it."""
        told = self.problem and self.problem.message
        if problem is not None and problem.message != told:
            log.get().warning("certificates in trouble", message=problem.message)
        self.problem = problem

    def _now(self) -> int:
        return int(self._clock())
