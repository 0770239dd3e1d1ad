"""The benches. Each compares runs in turn: ours, theirs, ours, theirs, and so on."""

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import psutil

from nodeagent import process
from nodeagent.bench.admission import admit
from nodeagent.bench.closures import BIG, PACKAGES, SMALL
from nodeagent.bench.collect import collect
from nodeagent.bench.figures import Figure, figure, ratio
from nodeagent.bench.lab import NODEAGENT, Lab, brought, clear, lab, peak_rss, seconds
from nodeagent.bench.room import Room
from nodeagent.bench.scrub import scrub
from nodeagent.bench.snapshot import snapshot
from nodeagent.bench.verify import verify
from nodeagent.bench.webhook import webhook

SETTLE_SECONDS: Final = 10.0

Bench = Callable[[Room], Awaitable[list[Figure]]]
Command = Callable[[Path], Awaitable[float]]


async def pour(room: Room) -> list[Figure]:
    """A closure of packages, in memory, nothing synced."""
    async with lab(room.memory / "lab", PACKAGES.scaled(room.scale)) as it:
        await _pack(it)
        ours, copy, realise, tar, whole = await _in_turn(
            room.memory,
            room.runs,
            _pour(it, "--no-durable"),
            _copy(it),
            _realise(it),
            _untar(it),
            _agent(it, "--no-durable"),
        )
        peaks = [(await peak_rss(it.agent(room.memory / "run", "--once")))[1]]
        await clear(room.memory / "run")
        return [
            figure("pour, seconds", ours, "s"),
            ratio("pour / nix copy", ours, copy, 0.60),
            ratio("pour / nix-store -r -j16", ours, realise, 0.90),
            ratio("pour / zstd -dc | tar x", ours, tar, 1.3),
            figure("nodeagent agent --once, seconds", whole, "s"),
            figure("peak RSS of all processes", peaks, "MiB", 300),
        ]


async def durable(room: Room) -> list[Figure]:
    """The same on a disk, everything synced before it is visible."""
    async with lab(room.memory / "lab", PACKAGES.scaled(room.scale)) as it:
        ours, synced, copy = await _in_turn(
            room.disk, room.runs, _pour(it), _copy(it, sync=True), _copy(it)
        )
        return [
            figure("pour, durable, seconds", ours, "s"),
            ratio("pour, durable / (nix copy + sync -f)", ours, synced, 1.0),
            ratio("pour, durable / nix copy", ours, copy, 1.4),
        ]


async def small(room: Room) -> list[Figure]:
    """2,500 small paths: what a path costs; and a pass that has nothing to do."""
    async with lab(room.memory / "lab", SMALL.scaled(room.scale)) as it:
        ours, copy = await _in_turn(room.memory, room.runs, _pour(it, "--no-durable"), _copy(it))
        return [
            figure("pour of 2,500 paths, seconds", ours, "s"),
            ratio("pour of 2,500 paths / nix copy", ours, copy, 0.35),
            *await _idle(it, room),
            *await _bake_again(it, room),
        ]


async def big(room: Room) -> list[Figure]:
    """One path of about 1 GB."""
    async with lab(room.memory / "lab", BIG.scaled(room.scale)) as it:
        await _pack(it)
        ours, tar = await _in_turn(room.memory, room.runs, _pour(it, "--no-durable"), _untar(it))
        return [
            figure("pour of one path, seconds", ours, "s"),
            ratio("pour of one path / zstd -dc | tar x", ours, tar, 1.1),
        ]


async def bake(room: Room) -> list[Figure]:
    """Baking anew, beside stock Nix."""
    async with lab(room.memory / "lab", PACKAGES.scaled(room.scale)) as it:
        ours, copy = await _in_turn(room.memory, room.runs, _bake(it), _copy_to(it))
        return [
            figure("release build, seconds", ours, "s"),
            ratio("release build / nix copy --to file://?compression=zstd", ours, copy, 1.0),
        ]


async def start(room: Room) -> list[Figure]:
    """The command line."""
    runs = [await seconds([*NODEAGENT, "--help"]) for _ in range(room.runs)]
    return [figure("nodeagent --help", runs, "s", 0.5)]


BENCHES: Final[dict[str, Bench]] = {
    "pour": pour,
    "durable": durable,
    "small": small,
    "big": big,
    "bake": bake,
    "verify": verify,
    "scrub": scrub,
    "collect": collect,
    "admission": admit,
    "webhook": webhook,
    "start": start,
}
ASKED_FOR: Final[dict[str, Bench]] = {"snapshot": snapshot}  # what needs more than a machine


async def _in_turn(directory: Path, runs: int, *commands: Command) -> list[list[float]]:
    """Run the commands in turn, `runs` times, each in a fresh directory."""
    taken: list[list[float]] = [[] for _ in commands]
    for _ in range(runs):
        for command, times in zip(commands, taken, strict=True):
            target = directory / "run"
            target.mkdir(parents=True)
            times.append(await command(target))
            await clear(target)
    return taken


def _pour(it: Lab, *more: str) -> Command:
    """Time what users wait for: from new pins to open gates, with an agent that runs already."""
    return lambda target: brought(it, target, *more)


def _agent(it: Lab, *more: str) -> Command:
    return lambda target: seconds(it.agent(target, "--once", *more))


def _copy(it: Lab, *, sync: bool = False) -> Command:
    async def run(target: Path) -> float:
        argv = ["nix", "copy", "--from", it.url, "--to", str(target), it.root]
        taken = await seconds(argv, it.nix_settings)
        return taken + (await seconds(["sync", "-f", str(target)]) if sync else 0.0)

    return run


def _realise(it: Lab) -> Command:
    settings = dict(it.nix_settings)
    settings["NIX_CONFIG"] += f"substituters = {it.url}\n"
    argv = ["nix-store", "--realise", "-j16", "--option", "http-connections", "16", it.root]
    return lambda target: seconds([*argv, "--store", str(target)], settings)


async def _pack(it: Lab) -> None:
    """Make one archive of the same data."""
    script = "cd {} && tar c --exclude=./.links . | zstd -q -3 -o {}".format(
        *map(shlex.quote, (it.at("builder/nix/store"), it.at("all.tar.zst")))
    )
    await seconds(["sh", "-c", script])


def _untar(it: Lab) -> Command:
    archive = shlex.quote(it.at("all.tar.zst"))
    return lambda target: seconds(
        ["sh", "-c", f"zstd -dc {archive} | tar x -C {shlex.quote(str(target))}"]
    )


def _bake(it: Lab) -> Command:
    argv = [*NODEAGENT, "release", "build", "--store-root", it.at("builder")]
    argv += ["--profile", f"ds={it.root}", "--key", it.at("cache.sec"), "--cache"]
    return lambda target: seconds([*argv, str(target / "cache")])


def _copy_to(it: Lab) -> Command:
    async def run(target: Path) -> float:
        to = f"file://{target}/cache?compression=zstd&secret-key={it.at('cache.sec')}"
        argv = ["nix", "copy", "--from", it.at("builder"), "--to", to, it.root]
        return await seconds(argv, it.nix_settings)

    return run


async def _bake_again(it: Lab, room: Room) -> list[Figure]:
    argv = [*NODEAGENT, "release", "build", "--store-root", it.at("builder"), "--cache"]
    argv += [it.at("cache"), "--profile", f"ds={it.root}", "--key", it.at("cache.sec")]
    runs = [await seconds(argv) for _ in range(room.runs)]
    return [figure("release build, nothing changed, 2,500 paths", runs, "s", 3)]


async def _idle(it: Lab, room: Room) -> list[Figure]:
    """Start an agent, let it come to rest, and look at what it costs then and at a resync."""
    node = room.memory / "idle"
    await seconds(it.agent(node, "--once", "--no-durable"))
    async with process.started(it.agent(node), stderr=None) as child:
        agent = psutil.Process(child.pid)
        await asyncio.sleep(min(SETTLE_SECONDS, room.idle_seconds))
        before = _cpu(agent)
        await asyncio.sleep(room.idle_seconds)
        share = 100 * (_cpu(agent) - before) / room.idle_seconds
        rss = agent.memory_info().rss / (1 << 20)
        passes = []
        for _ in range(room.runs):
            before = _cpu(agent)
            Path(it.at("pins/pins.json")).touch()
            await asyncio.sleep(3)
            passes.append((_cpu(agent) - before) * 1000)
    await clear(node)
    return [
        figure("idle: RSS, 2,500 paths published", [rss], "MiB", 80),
        figure(f"idle: share of a core over {room.idle_seconds:.0f} s", [share], "%", 0.1),
        figure("a pass with nothing to do, 2,500 paths: CPU", passes, "ms", 100),
    ]


def _cpu(one: psutil.Process) -> float:
    times = one.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
