"""A pour worker: one process that turns jobs into verified trees in staging.

It is a process of its own because the NAR reader holds the interpreter's lock, because hostile
archives are best read where little can be harmed, and because ending it ends all it does.
Run as `python -m nodeagent.realise.worker`; jobs on stdin, events on stdout.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nodeagent import disk, keys, nar, narinfo, storepath
from nodeagent.cache import (
    Broken,
    Cache,
    Download,
    Memory,
    Readable,
    Source,
    Transport,
    Undecodable,
    decoder,
)
from nodeagent.errors import NodeAgentError
from nodeagent.keys import TrustedKeys
from nodeagent.messages import encode
from nodeagent.names import Reason
from nodeagent.realise.jobs import (
    Done,
    Event,
    Failed,
    Job,
    Progress,
    Where,
    read_job,
    read_setup,
)
from nodeagent.realise.threads import side_by_side
from nodeagent.store import PART_SUFFIX, remove

_PR_SET_PDEATHSIG: Final = 1
_SAY_EVERY_SECONDS: Final = 0.1
LARGE_BYTES: Final = 64 << 20  # a NAR that lasts longer than threads cost
Say = Callable[[Event], None]


@dataclass
class Pourer:
    """What one worker pours with."""

    caches: list[Cache]
    trusted: TrustedKeys
    staging: Path
    say: Say
    _unsaid: int = 0
    _told: bool = False
    _said_at: float = field(default_factory=time.monotonic)

    def pour(self, job: Job) -> Done | Failed:
        """Bring one path; every expected failure is a value."""
        failures = [Failed(Reason.CACHE_UNREACHABLE, f"no cache to fetch {job.path} from")]
        for cache in self.caches:
            try:
                done = self._pour_from(cache, job)
            except NodeAgentError as error:
                self._flush()
                failures.append(Failed(error.reason, error.message))
            except OSError as error:
                self._flush()
                refused = disk.fault(error, self.staging)
                return Failed(refused.reason, refused.message)
            else:
                if self._told:  # what is told adds up; of a short path its end says enough
                    self._flush()
                self._unsaid, self._told = 0, False
                return done
        # What a cache that answered said is about the path; the others may come back.
        told = [one for one in failures if one.reason != Reason.CACHE_UNREACHABLE]
        return (told or failures)[-1]

    def _pour_from(self, cache: Cache, job: Job) -> Done:
        """Go by the index, and by the cache's own narinfo where the index was wrong."""
        if job.where is None:
            return self._bring(cache, job, self._ask(cache, job))
        try:
            return self._bring(cache, job, job.where)
        except NodeAgentError as error:
            if error.reason is Reason.CACHE_UNREACHABLE:
                raise
            where = self._ask(cache, job)
            if where == job.where:
                raise
            return self._bring(cache, job, where)

    def _bring(self, cache: Cache, job: Job, where: Where) -> Done:
        self._require_trusted(job, where)
        if job.found and self._is(job, Path(job.found)):
            return Done(where.sigs, fetched=False)
        self._fetch(cache, job, where)
        return Done(where.sigs, fetched=True)

    def _ask(self, cache: Cache, job: Job) -> Where:
        """Ask the cache for the path's narinfo, for want of an index."""
        name = f"{storepath.hash_part(job.path)}.narinfo"
        text = cache.fetch(name, narinfo.MAX_BYTES)
        if text is None:
            raise _missing(cache, job, name)
        try:
            info = narinfo.parse(text.decode())
        except ValueError as error:
            raise _corrupt(cache, job, f"its {name} cannot be read: {error}") from None
        claim = (info.path, info.nar_hash, info.nar_size, set(info.references))
        if claim != (job.path, job.nar_hash, job.nar_size, set(job.references)):
            raise _corrupt(cache, job, f"its {name} differs from the release's manifest")
        return Where(info.url, info.compression, list(info.sigs), info.file_hash)

    def _require_trusted(self, job: Job, where: Where) -> None:
        signed = keys.fingerprint(job.path, job.nar_hash, job.nar_size, job.references)
        if not self.trusted.verify_texts(where.sigs, signed):
            raise NodeAgentError(
                Reason.PATH_UNTRUSTED,
                f"{job.path} has no valid signature by a trusted cache key (trusted: "
                f"{self.trusted.names}); sign the cache with one, or add the key to --cache-keys",
            )

    def _is(self, job: Job, tree: Path) -> bool:
        """Tell whether a tree that was found is the path, canonical and whole."""
        try:
            raw = os.fsencode(tree)
            if not tree.is_symlink() and tree.is_dir() and tree.parent != self.staging:
                tree.chmod(nar.DIRECTORY_MODE)  # an end between rename and chmod leaves it writable
            if tree.parent != self.staging and nar.measure(raw) != job.nar_size:
                return False
            digest, size = nar.hash_tree(raw)
        except (OSError, nar.NarError):
            return False
        self._progress(size)
        return (storepath.nar_hash(digest), size) == (job.nar_hash, job.nar_size)

    def _fetch(self, cache: Cache, job: Job, where: Where) -> None:
        target = self.staging / storepath.basename(job.path)
        part = target.with_name(target.name + PART_SUFFIX)
        remove(target)
        try:
            self._attempt(cache, job, where, part)
        except Broken:
            if cache.health.down:
                raise
            self._attempt(cache, job, where, part)
        part.rename(target)

    def _attempt(self, cache: Cache, job: Job, where: Where, part: Path) -> None:
        """Unpack from the start; raises Broken where another attempt is worth it."""
        remove(part)
        body = cache.body(where.url)
        if body is None:
            raise _missing(cache, job, where.url)
        download = Download(Source(cache, where.url), self._elsewhere(cache, job, where), body)
        try:
            self._unpack(cache, job, where, download, part)
        except BaseException as error:
            remove(part)
            if isinstance(error, NodeAgentError) and download.resumed:
                raise Broken(error.message, error.reason) from None  # of two files, maybe
            raise
        finally:
            download.close()

    def _unpack(self, cache: Cache, job: Job, where: Where, source: Readable, part: Path) -> None:
        try:
            digest = self._unpacked(decoder(where.compression, source), job, os.fsencode(part))
        except (nar.NarError, Undecodable) as error:
            raise _corrupt(cache, job, str(error)) from None
        if (found := storepath.nar_hash(digest)) != job.nar_hash:
            raise _corrupt(cache, job, f"its hash is {found} instead of {job.nar_hash}")

    def _unpacked(self, read: nar.Read, job: Job, part: bytes) -> bytes:
        if job.nar_size < LARGE_BYTES:
            return nar.unpack(read, part, job.nar_size, self._progress)
        with side_by_side(read) as (ahead, digest):
            return nar.unpack(ahead, part, job.nar_size, self._progress, digest)

    def _elsewhere(self, cache: Cache, job: Job, where: Where) -> Iterator[Source]:
        """Find the same bytes in the caches after this one, by the index or their narinfos."""
        if where.file_hash is None:
            return
        for other in self.caches[self.caches.index(cache) + 1 :]:
            if where is job.where:
                yield Source(other, where.url)
                continue
            with contextlib.suppress(NodeAgentError):
                found = self._ask(other, job)
                if (found.file_hash, found.compression) == (where.file_hash, where.compression):
                    yield Source(other, found.url)

    def _progress(self, count: int) -> None:
        self._unsaid += count
        if time.monotonic() - self._said_at > _SAY_EVERY_SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._unsaid:
            self.say(Progress(self._unsaid))
            self._told = True
        self._unsaid, self._said_at = 0, time.monotonic()


def _missing(cache: Cache, job: Job, file: str) -> NodeAgentError:
    return NodeAgentError(
        Reason.NAR_MISSING,
        f"{job.path} is not in cache {cache.name} (no {file}); publish the release there again",
    )


def _corrupt(cache: Cache, job: Job, cause: str) -> NodeAgentError:
    return NodeAgentError(
        Reason.NAR_CORRUPT,
        f"{job.path} from cache {cache.name} is refused: {cause}; publish the release there again",
    )


def main() -> None:
    """Work off jobs until stdin ends, or the agent does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if _agent_is_gone():
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent decides
    os.umask(0o022)
    lines, out = sys.stdin.buffer, sys.stdout.buffer
    setup = read_setup(lines.readline())

    def say(event: Event) -> None:
        out.write(encode(event))
        out.flush()

    transport, memory = Transport(setup.access), Memory()
    memory.learn(setup.down)
    pourer = Pourer(
        [Cache(name, url, transport, memory.of(name)) for name, url in setup.caches],
        keys.parse_public(setup.trusted_keys),
        Path(setup.staging),
        say,
    )
    for line in lines:
        say(pourer.pour(read_job(line)))


def _agent_is_gone() -> bool:
    """Tell whether nobody listens: an agent that ended before `prctl` left us jobs to do alone."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


if __name__ == "__main__":
    main()
