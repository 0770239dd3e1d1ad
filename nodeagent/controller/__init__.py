"""The controller: a snapshot of the fleet, certificates, and the webhook that answers by them.

`run` is the composition root. Each replica does all of it; nobody leads but in what is written,
and that is `certs`' business. What is missing to be asked, /readyz says.
"""

import asyncio
import contextlib
import functools

from nodeagent import admission, certs, kube, log
from nodeagent.config import ControllerSettings
from nodeagent.controller.view import ControllerView
from nodeagent.errors import NodeAgentError
from nodeagent.fleet import Snapshot
from nodeagent.kube import Api
from nodeagent.metrics import ControllerMetrics
from nodeagent.serve import endpoints
from nodeagent.webhook import health, listen
from nodeagent.webhook.app import Webhook
from nodeagent.webhook.notice import Notices


async def run(settings: ControllerSettings) -> None:
    """Answer reviews until cancelled; then be unready, answer who still asks, and end."""
    logger = log.get()
    async with kube.connected(settings.kubeconfig) as api:
        view = _compose(settings, api)
        with contextlib.closing(listen.bound(settings.host, settings.webhook_port)) as listener:
            async with (
                endpoints.listening(health.app(view), settings.host, settings.port) as port,
                asyncio.TaskGroup() as tasks,
            ):
                tasks.create_task(view.snapshot.run(), name="snapshot")
                tasks.create_task(view.certificates.run(), name="certificates")
                logger.info("started", pod=settings.pod_name, port=port)
                await view.certificates.ready.wait()
                async with listen.serving(
                    view.webhook.app(), listener, view.certificates.context, view.webhook.notices
                ):
                    logger.info("answering", port=listener.getsockname()[1])
                    await _until_told_to_end(view, settings.drain_seconds)


def _compose(settings: ControllerSettings, api: Api) -> ControllerView:
    logger = log.get()

    def tell(resource: str, error: NodeAgentError) -> None:
        logger.warning(error.message, reason=error.reason, resource=resource)

    def tell_break(namespace: str, why: str | None) -> None:
        if why is None:
            logger.info("breaker closed", namespace=namespace)
        else:
            logger.warning("breaker open: nothing is injected", namespace=namespace, why=why)

    snapshot = Snapshot(api, settings.namespace, tell, on_break=tell_break)
    decide = functools.partial(admission.decide, own_namespace=settings.namespace)
    webhook = Webhook(snapshot, decide, ControllerMetrics(), Notices(logger))
    return ControllerView(snapshot, _certificates(settings, api), webhook)


def _certificates(
    settings: ControllerSettings, api: Api
) -> certs.Certificates | certs.FileCertificates:
    if settings.certificates == "files":
        return certs.FileCertificates(settings.tls_cert, settings.tls_key)
    return certs.own(
        api,
        namespace=settings.namespace,
        service=settings.service,
        configuration=settings.webhook_configuration,
        pod_name=settings.pod_name,
    )


async def _until_told_to_end(view: ControllerView, drain_seconds: float) -> None:
    """Wait to be cancelled, and then until the API servers have heard that we leave."""
    try:
        await asyncio.Event().wait()
    finally:
        view.webhook.leaving = True
        log.get().info("leaving", seconds=drain_seconds)
        await asyncio.sleep(drain_seconds)
