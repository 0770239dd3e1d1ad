"""Pins from a hostile or unlucky hand: told, never obeyed, and mended by good ones.

What a node has published stays published, the agent stays alive and small, and nothing but the
reason changes.
"""

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from integration.site import Node, Site
from nodeagent import release
from nodeagent.names import Reason
from nodeagent.pins import MAX_PINS_BYTES

GROWTH_BYTES = 64 << 20
SWAPS = 200
Spoil = Callable[[bytes], bytes]


def changed(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Change the document of good pins."""

    def spoil(good: bytes) -> bytes:
        document = json.loads(good)
        change(document)
        return json.dumps(document).encode()

    return spoil


def envelope(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["channels"]["stable"]["current"]
    return found


INVALID: dict[str, Spoil] = {
    "empty": lambda good: b"",
    "half written": lambda good: good[: len(good) // 2],
    "without its last brace": lambda good: good.rstrip()[:-1],
    "a NUL": lambda good: good + b"\0",
    "NULs as after a power cut": lambda good: bytes(len(good)),
    "twice": lambda good: good + good,
    "oversized": lambda good: good + b" " * MAX_PINS_BYTES,
    "oversized by far": lambda good: good.rstrip()[:-1] + b',"x":"' + b"x" * (64 << 20) + b'"}',
    "deeply nested lists": lambda good: b"[" * (MAX_PINS_BYTES // 2),
    "deeply nested objects": lambda good: b'{"channels":' * (MAX_PINS_BYTES // 12),
    "nested and closed": lambda good: b"[" * 400_000 + b"]" * 400_000,
    "nested where a channel is": lambda good: good.replace(
        b'"payload"', b'"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"payload"'
    ),
    "not UTF-8": lambda good: good.replace(b"main", b"\xff\xfe"),
    "surrogates": lambda good: good.replace(b"main", b"\xed\xa0\x80"),
    "UTF-16": lambda good: good.decode().encode("utf-16"),
    "a byte order mark": lambda good: b"\xef\xbb\xbf" + good,
    "NaN": lambda good: good.replace(b"100", b"NaN"),
    "a huge number": lambda good: good.replace(b"100", b"9" * 100_000),
    "a huge exponent": lambda good: good.replace(b"100", b"1e999999"),
    "a negative percent": lambda good: good.replace(b"100", b"-1"),
    "a true percent": lambda good: good.replace(b"100", b"true"),
    "a list": lambda good: b"[" + good + b"]",
    "null": lambda good: b"null",
    "an unknown key": changed(lambda pins: pins.update(extra=1)),
    "another version": changed(lambda pins: pins.update(apiVersion="nodeagent.dev/v9")),
    "no caches": changed(lambda pins: pins.pop("caches")),
    "channels as a list": changed(lambda pins: pins.update(channels=[])),
    "many signatures": changed(lambda pins: envelope(pins)["signatures"].extend(
        envelope(pins)["signatures"] * 1000
    )),
    "another payload type": changed(lambda pins: envelope(pins).update(payloadType="text/plain")),
}  # fmt: skip
NOT_TRUSTED: dict[str, Spoil] = {
    "a payload that is no base64": changed(lambda pins: envelope(pins).update(payload="&&&")),
    "no signature": changed(lambda pins: envelope(pins).update(signatures=[])),
    "a payload of another": changed(
        lambda pins: envelope(pins).update(payload=base64.b64encode(b"{" * 1000).decode())
    ),
    "a short signature": changed(lambda pins: envelope(pins)["signatures"][0].update(sig="AA==")),
    "a long signature": changed(
        lambda pins: envelope(pins)["signatures"][0].update(sig="AAAA" * 10_000)
    ),
}


async def test_no_hostile_pins_are_obeyed_or_hurt_and_good_ones_mend_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    node = Node(site, tmp_path / "node1")
    first, second = await site.release(site.closure("1")), await site.release(site.closure("2"))
    site.pin(second)
    good = site.pins.read_bytes()
    site.promote(first)
    held = site.pins.read_bytes()
    cases = [(Reason.PINS_INVALID, INVALID), (Reason.SIGNATURE_INVALID, NOT_TRUSTED)]
    async with node.agent():
        await node.until_published(first)
        assert node.process is not None
        before = psutil.Process(node.process.pid).memory_info().rss
        for reason, spoils in cases:
            for name, spoil in spoils.items():
                site.write_pins(held)
                await node.until(f"well before {name}", lambda now: now.problem is None)
                spoiled = spoil(good)
                assert spoiled != good, name
                site.write_pins(spoiled)
                status = await node.until(f"refusing {name}", lambda now: now.problem is not None)
                assert status.problem is not None
                assert status.problem.reason is reason, (name, status.problem)
                assert len(status.problem.message) < 2000, name
                assert status.problem.message.isprintable(), (name, status.problem)
        assert (await node.get("/readyz"))[0] == 200
        assert "hello 1" in node.hello()
        assert psutil.Process(node.process.pid).memory_info().rss < before + GROWTH_BYTES
        site.write_pins(good)
        await node.until_published(second)
    assert not [entry for entry in node.log if entry["event"] == "bug"]


async def test_pins_that_change_while_they_are_read_are_old_or_new_or_refused(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    node = Node(site, tmp_path / "node1")
    releases = [await site.release(site.closure(version)) for version in ("1", "2")]
    documents = []
    for manifest in releases:
        site.pin(manifest)
        documents.append(site.pins.read_bytes())
    known = {release.digest_of(manifest) for manifest in releases}
    async with node.agent():
        await node.until_published(releases[1])
        for turn in range(SWAPS):
            document = documents[turn % 2]
            if turn % 3:
                site.write_pins(document)
            else:  # in place, as no one should: whoever reads now gets the half of it
                with site.pins.open("wb") as file:
                    file.write(document[: len(document) // 2])
                    file.flush()
                    await asyncio.sleep(0.01)
                    file.write(document[len(document) // 2 :])
            await asyncio.sleep(0.01)
            status = await node.status()
            assert status.published is not None
            assert status.published.release in known
            assert status.problem is None or status.problem.reason is Reason.PINS_INVALID
            assert "hello" in node.hello()
        site.write_pins(documents[0])
        await node.until_published(releases[0])
    assert not [entry for entry in node.log if entry["event"] == "bug"]
