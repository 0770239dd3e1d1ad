"""Who may hold a connection to the webhook, and for how long."""

import asyncio
import contextlib
import errno
import socket
import ssl
from typing import Final

import aiohttp
import pytest

from nodeagent.webhook.body import LARGEST
from nodeagent.webhook.guard import Bounds
from nodeagent.webhook.notice import NO_HTTP
from tests.webhooking import (
    BODY,
    HEAD,
    HOST,
    PATH,
    answer,
    by_hand,
    rest,
    running,
    until,
)

QUICK: Final = Bounds(request_seconds=1, idle_seconds=60)


async def test_a_connection_serves_one_request_after_another() -> None:
    async with running() as site, by_hand(site) as (reader, writer):
        for _ in range(3):
            writer.write(HEAD + BODY)
            assert (await answer(reader)).startswith(b"HTTP/1.1 200")


async def test_two_requests_in_one_packet_are_both_answered() -> None:
    async with running() as site, by_hand(site) as (reader, writer):
        writer.write((HEAD + BODY) * 2)
        assert [(await answer(reader))[:12] for _ in range(2)] == [b"HTTP/1.1 200"] * 2


@pytest.mark.parametrize("sent", [b"P", HEAD[:-2], b"POST / HTTP/1.1\r\n"])
async def test_headers_that_do_not_come_to_an_end_are_not_waited_for(sent: bytes) -> None:
    async with running(bounds=QUICK) as site, by_hand(site) as (reader, writer):
        writer.write(sent)
        assert await rest(reader) == b""
        assert (await site.review())["allowed"] is True


async def test_a_sender_that_drips_gets_no_more_time_than_another() -> None:
    async with running(bounds=QUICK) as site, by_hand(site) as (reader, writer):

        async def drip() -> None:
            for letter in HEAD[:-2]:
                writer.write(bytes([letter]))
                await asyncio.sleep(0.1)  # all of it would take much longer than is given

        dripping = asyncio.create_task(drip())
        assert await rest(reader) == b""
        assert not dripping.done()
        dripping.cancel()
        await asyncio.wait([dripping])


async def test_a_body_that_does_not_come_to_an_end_is_not_waited_for() -> None:
    async with running(bounds=QUICK) as site, by_hand(site) as (reader, writer):
        writer.write(HEAD + BODY[:-1])
        text = await answer(reader)
        assert text.startswith(b"HTTP/1.1 408")
        assert b"took too long" in text


async def test_a_body_that_breaks_off_harms_nobody() -> None:
    async with running() as site:
        async with by_hand(site) as (_, writer):
            writer.write(HEAD + BODY[:-1])
            await writer.drain()
        assert (await site.review())["allowed"] is True
        assert site.said == []


async def test_who_says_nothing_at_all_is_let_go() -> None:
    async with running(bounds=Bounds(idle_seconds=1)) as site, by_hand(site) as (reader, _):
        assert await rest(reader) == b""


async def test_who_has_nothing_more_to_ask_is_let_go() -> None:
    async with running(bounds=Bounds(idle_seconds=1)) as site, by_hand(site) as (reader, writer):
        writer.write(HEAD + BODY)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        assert await rest(reader) == b""


async def test_who_shakes_no_hands_is_let_go() -> None:
    async with running(bounds=QUICK) as site:
        reader, writer = await asyncio.open_connection(HOST, site.port)
        assert await rest(reader) == b""
        writer.close()


async def test_plain_http_is_let_go() -> None:
    async with running() as site:
        with pytest.raises(aiohttp.ClientError):
            await site.session.post(f"http://localhost:{site.port}{PATH}", data=BODY)
        assert (await site.review())["allowed"] is True
        assert [one["event"][:23] for one in site.said] == ["a TLS connection failed"]


async def test_an_api_server_that_does_not_trust_the_certificate_leaves_a_line() -> None:
    async with running() as site:
        for _ in range(3):
            await asyncio.to_thread(distrust, site.port)
        await until(lambda: bool(site.said))
        assert (await site.review())["allowed"] is True
        (line,) = site.said
        assert "caBundle" in line["event"]
        assert "alert unknown ca" in line["error"]


def distrust(port: int) -> None:
    """Refuse the server's certificate, and say so: what asyncio does not."""
    stranger = ssl.create_default_context()
    with socket.create_connection((HOST, port)) as plain, pytest.raises(ssl.SSLError):
        stranger.wrap_socket(plain, server_hostname="localhost")


async def test_garbage_is_answered_like_a_bad_request(caplog: pytest.LogCaptureFixture) -> None:
    async with running(bounds=QUICK) as site, by_hand(site) as (reader, writer):
        writer.write(b"\x00\x01\x02 GARBAGE\r\n\r\n")
        assert (await rest(reader)).startswith(b"HTTP/1.0 400")
        async with by_hand(site) as (other, asking):
            asking.write(b"POST / HTTP/1.1\r\nNo-Host: here\r\n\r\n")
            assert (await rest(other)).startswith(b"HTTP/1.0 400")
        assert (await site.review())["allowed"] is True
        assert [one["event"] for one in site.said] == [NO_HTTP]
        assert not caplog.records


async def test_a_connection_that_cannot_be_accepted_is_told_and_the_next_one_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    accept = loop.sock_accept
    failures = [OSError(errno.EMFILE, "Too many open files")]

    async def sock_accept(listener: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop()
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", sock_accept)
    async with running() as site:
        assert (await site.review())["allowed"] is True
        assert [one["event"] for one in site.said] == ["cannot accept a connection"]


async def test_who_waits_for_room_at_the_end_is_let_go() -> None:
    async with running(bounds=Bounds(connections=1, rest_seconds=60)) as site, by_hand(site):
        waiting = asyncio.create_task(site.connect())
        await until(lambda: site.door.is_full)
        site.over.set()
        with pytest.raises(OSError):  # noqa: PT011 which of them, the kernel decides
            await waiting


async def test_one_that_rests_makes_room_for_one_that_comes() -> None:
    async with (
        running(bounds=Bounds(connections=3, rest_seconds=0)) as site,
        contextlib.AsyncExitStack() as open_,
    ):
        held = [await open_.enter_async_context(by_hand(site)) for _ in range(6)]
        oldest = await asyncio.gather(*(rest(reader) for reader, _ in held[:3]))
        assert oldest == [b""] * 3
        for reader, writer in held[3:]:
            writer.write(HEAD + BODY)
            assert (await answer(reader)).startswith(b"HTTP/1.1 200")


async def test_one_that_rested_but_a_moment_may_ask_once_more() -> None:
    bounds = Bounds(connections=1, rest_seconds=60)
    async with running(bounds=bounds) as site, by_hand(site) as (reader, writer):
        waiting = asyncio.create_task(site.review())
        await until(lambda: site.door.is_full)
        writer.write(HEAD + BODY)
        text = await rest(reader)
        assert text.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in text.lower()
        assert (await waiting)["allowed"] is True


async def test_one_that_rests_is_ended_as_soon_as_that_was_long_enough() -> None:
    bounds = Bounds(connections=1, rest_seconds=0.1)
    async with running(bounds=bounds) as site, by_hand(site) as (reader, _):
        assert (await site.review())["allowed"] is True
        assert await rest(reader) == b""


async def test_who_finds_all_connections_busy_waits_for_one_to_end() -> None:
    bounds = Bounds(connections=2, request_seconds=60)
    async with running(bounds=bounds) as site, by_hand(site) as one, by_hand(site) as other:
        for _, writer in (one, other):
            writer.write(HEAD + BODY[:-1])
            await writer.drain()
        await until(lambda: site.door.under_way == 2)
        third = asyncio.create_task(site.review())
        await until(lambda: site.door.is_full)
        one[1].write(BODY[-1:])
        text = await rest(one[0])  # and it is not kept, for somebody waits
        assert text.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in text.lower()
        assert (await third)["allowed"] is True


async def test_no_more_is_held_of_large_requests_than_there_is_room_for() -> None:
    size, bounds = LARGEST - 1, Bounds(request_seconds=60)
    head = HEAD.replace(str(len(BODY)).encode(), str(size).encode())
    async with running(bounds=bounds) as site, contextlib.AsyncExitStack() as open_:
        held = [await open_.enter_async_context(by_hand(site)) for _ in range(4)]
        answers = [asyncio.create_task(answer(reader)) for reader, _ in held]
        for _, writer in held:
            writer.write(head + b" " * (size - 1))
        done, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        (full,) = done
        assert full.result().startswith(b"HTTP/1.1 503")
        assert (await site.review())["allowed"] is True
        for task in answers:
            task.cancel()
        await asyncio.wait(answers)


async def test_many_at_once_are_all_answered() -> None:
    async with running(bounds=Bounds(connections=16, request_seconds=60)) as site:
        answers = await asyncio.gather(*(site.review(uid=f"{n}") for n in range(300)))
    assert [one["uid"] for one in answers] == [f"{n}" for n in range(300)]
