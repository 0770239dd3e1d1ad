"""What a certificate's exchange and the webhook's end mean for those who are connected."""

import asyncio
from typing import Final

import pytest

from nodeagent.admission.decision import Decision
from nodeagent.names import Outcome
from nodeagent.webhook.guard import Bounds
from tests.webhooking import (
    BODY,
    CA,
    HEAD,
    HOST,
    Known,
    answer,
    by_hand,
    rest,
    running,
)

QUICK: Final = Bounds(request_seconds=1, idle_seconds=60)


async def test_a_new_certificate_is_shown_without_a_restart() -> None:
    async with running() as site, by_hand(site) as (reader, writer):
        first = writer.get_extra_info("ssl_object").getpeercert()
        CA.issue_cert("localhost").configure_cert(site.context)
        async with by_hand(site) as (_, other):
            second = other.get_extra_info("ssl_object").getpeercert()
        assert first["serialNumber"] != second["serialNumber"]
        writer.write(HEAD + BODY)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")


async def test_who_leaves_asks_to_connect_to_somebody_else() -> None:
    async with running() as site, by_hand(site) as (reader, writer):
        site.webhook.leaving = True
        writer.write(HEAD + BODY)
        text = await rest(reader)
        assert text.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in text.lower()


async def test_a_request_under_way_is_answered_before_the_end() -> None:
    async def finding() -> None:
        reading.set()
        await asyncio.sleep(0.1)

    reading = asyncio.Event()
    snapshot = Known(finding=finding)
    async with running(lambda *_: Decision(Outcome.NAMESPACE_UNKNOWN), snapshot) as site:
        async with by_hand(site) as (reader, writer), by_hand(site) as (half, second):
            second.write(HEAD + BODY[:-1])
            writer.write(HEAD + BODY)
            await reading.wait()
            site.over.set()
            second.write(BODY[-1:])
            assert (await rest(reader)).startswith(b"HTTP/1.1 200")
            assert (await rest(half)).startswith(b"HTTP/1.1 200")
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(HOST, site.port)


async def test_the_end_does_not_wait_for_those_who_rest_or_stall() -> None:
    async with running(bounds=QUICK) as site, by_hand(site) as (resting, _), by_hand(site) as one:
        one[1].write(HEAD[:-2])
        site.over.set()
        assert await rest(resting) == b""
        assert await rest(one[0]) == b""
