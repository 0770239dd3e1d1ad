"""Thousands of requests leave nothing behind."""

import asyncio
import gc
from typing import Final

import psutil

from nodeagent.webhook.guard import Bounds
from tests.webhooking import JSON, PATH, Site, encoded, injected, pod, review, running, until

MIB: Final = 1 << 20
ROUNDS: Final = 5
BIG: Final = encoded(review(object=pod() | {"metadata": {"annotations": {"a": "x" * 3_000_000}}}))
GOOD: Final = encoded(review())
TEXT: Final = {"Content-Type": "text/plain"}
BODIES: Final = (GOOD, GOOD, b"{", encoded(review(uid="")), GOOD[:-1])


async def ask(site: Site, number: int) -> None:
    """Ask one of many things, at times on a connection of its own that breaks off."""
    if number % 20:
        await site.post(BODIES[number % len(BODIES)], JSON if number % 7 else TEXT)
        return
    _, writer = await site.connect()
    kind = "application/json" if number % 40 else "text/plain"
    head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: 9\r\n\r\n"
    writer.write(head.encode() + b"{")
    await writer.drain()
    writer.transport.abort()


async def work(site: Site) -> None:
    for _ in range(15):
        await asyncio.gather(*(ask(site, number) for number in range(1, 41)))
    await until(lambda: len(site.door.server.connections) <= 40)  # what was aborted is forgotten


async def test_thousands_of_requests_leave_no_objects_behind() -> None:
    async with running(injected, bounds=Bounds(connections=64)) as site:
        await work(site)
        looks = []
        for _ in range(ROUNDS):
            await work(site)
            gc.collect()
            looks.append(len(gc.get_objects()))
        # A leak of one object a request would add 600 at each look.
        assert min(looks[2:]) < max(looks[:2]) + 400, looks


async def test_large_requests_leave_no_memory_behind() -> None:
    process = psutil.Process()
    async with running(injected) as site:
        looks = []
        for _ in range(ROUNDS):
            for _ in range(8):
                assert (await site.post(BIG))[0] == 200
            gc.collect()
            looks.append(process.memory_info().rss)
        # A leak of the bodies would add 24 MiB at each look.
        assert min(looks[2:]) < max(looks[:2]) + 16 * MIB, looks
