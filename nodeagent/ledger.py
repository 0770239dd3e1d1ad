"""The node's durable memory: what it accepted, what it published, the manifests it needs.

One process at a time owns it; another waits for the lock. Agents of several versions may own it
in turn: fields that this one does not know it keeps, and a newer version of the file it refuses
(docs/design.md, "Versions").
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Container, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError

from nodeagent import __version__, disk, model, release
from nodeagent.errors import NodeAgentError
from nodeagent.history import History
from nodeagent.model import Digest, Document, Kept, Moment
from nodeagent.names import Reason
from nodeagent.pins import Envelope
from nodeagent.select import Accepted, Wanted
from nodeagent.store import usable, write_file

VERSION: Final = 1  # raised by what an older agent cannot read, or would make untrue
POLL_SECONDS: Final = 1.0
LOCK: Final = "lock"
MOST_SPOILT: Final = 20


class _Header(Document, extra="ignore"):
    """What every version of the state file has."""

    version: Annotated[int, Field(ge=1)] = VERSION


class _Floor(Document, extra="ignore"):
    """What is looked for in a channel of a newer version."""

    floor: int = 0


class _Floors(Document, extra="ignore"):
    """What a newer version may still tell us."""

    channels: Mapping[str, _Floor] = {}


class Held(Kept):
    """What is published: enough to publish it again without pins, cache or API server.

    `since` when, as the history has it; an agent that keeps no history leaves it out.
    """

    channel: str
    serial: int
    release: Digest
    caches: tuple[str, ...]
    since: Moment | None = None


class ChannelMemory(Kept):
    """What was accepted in one channel."""

    floor: int = 0
    accepted: tuple[Envelope, ...] = ()


class State(Kept):
    """The state file; `version` is that of the agent who wrote it last."""

    version: int = VERSION
    channels: Mapping[str, ChannelMemory] = {}
    held: Held | None = None
    verified_boot: str | None = None
    scrubbed_boot: str | None = None
    scrubbed_at: int | None = None  # unix time of the last full scrub
    clean_end: str | None = None  # the boot whose last agent ended in order, while none runs
    history: History = History()
    damaged: Mapping[str, str] = {}  # paths with their faults, until they are fetched anew
    spoilt: Mapping[str, int] = {}  # paths whose contents went bad of late, and when


class Ledger:
    """State under one directory, written in single steps that survive a power cut."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = State()

    @contextlib.asynccontextmanager
    async def owned(self, on_wait: Callable[[], None]) -> AsyncIterator[None]:
        """Hold the lock, waiting while another agent does, and read the state."""
        with usable(self.directory):
            self._releases.mkdir(parents=True, exist_ok=True)
            file = (self.directory / LOCK).open("a")
        with file as lock:
            waiting = False
            while not disk.try_lock(lock.fileno()):
                if not waiting:
                    on_wait()
                waiting = True
                await asyncio.sleep(POLL_SECONDS)
            self.state = self._read()
            yield

    def accepted(self, channel: str, min_serial: int) -> Accepted:
        """Give what selection must know of the past."""
        memory = self.state.channels.get(channel, ChannelMemory())
        held = self.state.held
        return Accepted(
            frozenset(envelope.identity for envelope in memory.accepted),
            max(memory.floor, min_serial),
            held.serial if held is not None and held.channel == channel else None,
        )

    def accept(self, wanted: Wanted) -> None:
        """Remember an accepted record, and of the older ones the newest of other releases."""
        channel = wanted.record.channel
        memory = self.state.channels.get(channel, ChannelMemory())
        older = [one for one in memory.accepted if not _is_of(one, wanted.record.release)]
        fresh = memory.model_copy(
            update={"floor": wanted.floor, "accepted": (*older[-3:], wanted.envelope)}
        )
        if fresh != memory:
            self._write(channels={**self.state.channels, channel: fresh})

    def opening(self, digest: str, now: datetime) -> None:
        """Remember, before a gate leads to it, that pods may get a release from now on."""
        now = now.replace(microsecond=0)
        self.remember(self._history(now).opened(digest, now))

    def _history(self, now: datetime) -> History:
        """Give it; all is possible after an agent that took no note, or a clock that went back."""
        held, history = self.state.held, self.state.history
        if held is not None and held.since is None:
            return history.unsure(self.kept, now)
        return history.unsure(self.kept, history.latest) if now < history.latest else history

    def publish(self, held: Held, boot: str, now: datetime, gates: Container[str] = ()) -> None:
        """Remember what is published since when, and that it was verified in this boot.

        `gates` names, as directories do, the releases that gates lead to now.
        """
        known, now = self.state.held, now.replace(microsecond=0)
        history = self._history(now)
        if known is not None and known.since is not None and _same(known, held):
            held = known  # with all that a newer agent noted of it
        else:
            held = held.model_copy(update={"since": now})
            led = [one for one in history.generations if release.digest12(one) in gates]
            history = history.published(held.release, now, led)
        if (held, boot) != (known, self.state.verified_boot):
            self._write(held=held, verified_boot=boot, history=history)
            with contextlib.suppress(OSError):
                (self.directory / LOCK).write_text(boot)

    def remember(self, history: History, *, on_disk: bool = True) -> None:
        """Remember what becomes of releases; in memory alone where disks fail, unless `on_disk`."""
        if history != self.state.history:
            if not on_disk:  # collecting is what makes room
                self.state = self.state.model_copy(update={"history": history})
            with contextlib.suppress(*(() if on_disk else (NodeAgentError,))):
                self._write(history=history)

    @property
    def kept(self) -> list[str]:
        """List the releases whose manifest is here, published or not."""
        with usable(self._releases):
            return sorted(f"sha256:{file.stem}" for file in self._releases.glob("[0-9a-f]*.json"))

    def forget(self, digest: str) -> None:
        """Drop a release of which nothing is left; its manifest goes last."""
        self.remember(self.state.history.forget(digest), on_disk=False)
        with usable(self.directory):
            self._manifest(digest).unlink(missing_ok=True)

    def begin(self, boot: str) -> bool:
        """Note that an agent runs in this boot; tell whether contents are to be scrubbed.

        They are unless the last boot's agent ended in order, and until a scrub ended.
        """
        state = self.state
        clean = state.held is None or state.clean_end is not None
        due = not clean and state.scrubbed_boot != boot
        scrubbed = state.scrubbed_boot if due else boot
        if (state.clean_end, state.scrubbed_boot) != (None, scrubbed):
            changed: dict[str, object] = {"clean_end": None, "scrubbed_boot": scrubbed}
            self.state = state.model_copy(update=changed)
            with contextlib.suppress(NodeAgentError):  # else the next change writes it
                self._write()
        return due

    def end(self, boot: str) -> None:
        """Note that the agent ends in order; not while a scrub is due: the next one owes it."""
        if self.state.scrubbed_boot == boot:
            with contextlib.suppress(NodeAgentError):  # else the next boot scrubs
                self._write(clean_end=boot)

    def scrubbed(self, boot: str, at: int) -> None:
        """Remember that all contents were read in this boot; `at` is unix time."""
        self._write(scrubbed_boot=boot, scrubbed_at=at)

    def condemn(self, damaged: Mapping[str, str]) -> None:
        """Remember which paths are damaged, each with its fault: no end of an agent heals them."""
        if damaged != self.state.damaged:
            self._write(damaged=dict(damaged))

    def spoil(self, path: str, at: int) -> None:
        """Remember that a path's contents were found bad, however it is mended; unix time."""
        late = [one for one in self.state.spoilt.items() if one[0] != path][1 - MOST_SPOILT :]
        with contextlib.suppress(NodeAgentError):  # a full disk is told by what fills it
            self._write(spoilt=dict([*late, (path, at)]))

    def manifest(self, digest: str) -> bytes | None:
        """Give a manifest that was kept; one that the disk has spoilt goes, and is fetched anew."""
        with contextlib.suppress(FileNotFoundError):
            data = self._manifest(digest).read_bytes()
            if release.digest_of(data) == digest:
                return data
            self._manifest(digest).unlink()
        return None

    def keep_manifest(self, digest: str, manifest: bytes) -> None:
        """Keep a manifest that was checked against its digest."""
        with usable(self.directory):
            if not self._manifest(digest).exists():
                write_file(self._manifest(digest), manifest)

    @property
    def _releases(self) -> Path:
        return self.directory / "releases"

    def _manifest(self, digest: str) -> Path:
        return self.directory / release.manifest_file(digest)

    def _read(self) -> State:
        file = self.directory / "state.json"
        try:
            with usable(file):
                if not file.exists():
                    return self._afresh()
                data = file.read_bytes()
            _require_known(file, data)
            return State.model_validate_json(data)
        except ValidationError as error:
            raise NodeAgentError(
                Reason.STORE_UNUSABLE,
                f"{file} cannot be read: {model.explain(error)}; move it away to start afresh "
                "(then set --min-serial)",
            ) from None

    def _afresh(self) -> State:
        """Begin without memory; where gates were opened in this boot, pods may hold them."""
        noted = (self.directory / LOCK).read_text(errors="replace")
        return State(verified_boot=noted or None)

    def _write(self, **changes: object) -> None:
        state = self.state.model_copy(update={**changes, "version": VERSION})
        data = state.model_dump_json(by_alias=True, indent=1)
        with usable(self.directory):
            write_file(self.directory / "state.json", data.encode())
        self.state = state  # only now: what is not on disk is written with the next change


def _is_of(envelope: Envelope, digest: str) -> bool:
    try:
        return envelope.peek().release == digest
    except NodeAgentError:  # a newer agent's record
        return False


def _same(one: Held, other: Held) -> bool:
    facts = ("channel", "serial", "release", "caches")
    return all(getattr(one, fact) == getattr(other, fact) for fact in facts)


def _require_known(file: Path, data: bytes) -> None:
    """Judge the version first: what else a newer file has, this nodeagent cannot know."""
    version = _Header.model_validate_json(data).version
    if version > VERSION:
        raise NodeAgentError(
            Reason.STORE_UNUSABLE,
            f"{file} has version {version}, this nodeagent {__version__} knows {VERSION}: upgrade "
            f"again, or move the file away and set --min-serial to {_floor(data)}; nothing on the "
            "node was changed",
        )


def _floor(data: bytes) -> str:
    """Say which serial keeps old records out once a newer version of the file is gone."""
    try:
        channels = _Floors.model_validate_json(data).channels.values()
    except ValidationError:
        return "the serial of the record that the node has published"
    return str(max((one.floor for one in channels), default=0))
