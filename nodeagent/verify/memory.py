"""What the scrub read when, kept across restarts in a file of lines, one more for each content.

A line is a store path's hash part, the unix time at which it was last known whole, and its NAR
size; or a word and its values. Lines that are not understood, or that a power cut took, count as
not there: then contents are read once more. The file is written anew when most of it is stale.
"""

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from nodeagent import storepath
from nodeagent.errors import NodeAgentError
from nodeagent.nix import Registration
from nodeagent.store import usable, write_file

STALE_LINES: Final = 1000  # that are kept anyway
_LINE: Final = re.compile(r"(?P<hash>[0-9a-z]{32}) (?P<at>\d{1,12}) (?P<size>\d{1,18})")
_WORD: Final = re.compile(r"(?P<word>rests|round|owed) (?P<at>\d{1,12}(\.\d+)?)(?: (?P<boot>\S+))?")


class Read(NamedTuple):
    """When contents were last known whole, and the size of their NAR."""

    at: int
    size: int


class Memory:
    """The file's content. `round` is when the running round began, `rests` as in `Sitting`.

    `owed` is the boot whose scrub at full speed began, `owed_from` when that was.
    """

    def __init__(self, file: Path) -> None:
        self.rests: float | None = None
        self.round: int | None = None
        self.owed, self.owed_from = "", 0
        self._file = file
        self._read: dict[str, Read] = {}
        self._lines = 0
        self._torn = False
        self._load()

    def get(self, path: str) -> Read | None:
        """Say what is known of a path's contents."""
        return self._read.get(storepath.hash_part(path))

    def note(self, contents: Iterable[Registration], at: int) -> None:
        """Remember that these were whole at that time."""
        fresh = {
            storepath.hash_part(one.path): Read(at, max(one.info.nar_size, 1)) for one in contents
        }
        self._read.update(fresh)
        self._append(_line(*item) for item in fresh.items())

    def rest(self, until: float) -> None:
        """Remember until when nothing is to be read."""
        self.rests = until
        self._append([f"rests {until:.3f}"])

    def begin_round(self, at: int) -> None:
        """Remember when a round began: it ends when all contents were read after that."""
        self.round = at
        self._append([f"round {at}"])

    def owe(self, boot: str, at: int) -> None:
        """Remember that all contents are to be read in this boot; done already is only once.

        What a clock that was ahead wrote must not look as if it were read since.
        """
        if self.owed != boot:
            self.owed, self.owed_from = boot, at
            self._read = {
                key: one._replace(at=min(one.at, at - 1)) for key, one in self._read.items()
            }
            self._rewrite()

    def is_owed(self, path: str) -> bool:
        """Tell whether a path's contents were not read since the boot's scrub began."""
        known = self.get(path)
        return known is None or known.at < self.owed_from

    def tidy(self, on_disk: Collection[str]) -> None:
        """Write the file anew when most of its lines are of no use."""
        if self._torn or self._lines > 2 * len(on_disk) + STALE_LINES:
            there = {storepath.hash_part(path) for path in on_disk}
            self._read = {key: one for key, one in self._read.items() if key in there}
            self._rewrite()

    def _load(self) -> None:
        with contextlib.suppress(FileNotFoundError), usable(self._file):
            text = self._file.read_text(errors="replace") if self._file.exists() else ""
            for line in text.splitlines():
                self._lines += 1
                if (match := _LINE.fullmatch(line)) is not None:
                    self._read[match["hash"]] = Read(int(match["at"]), int(match["size"]))
                elif (match := _WORD.fullmatch(line)) is not None:
                    self._take(match)
                else:
                    self._torn = True
            self._torn |= not text.endswith("\n") and bool(text)

    def _take(self, match: re.Match[str]) -> None:
        at = float(match["at"])
        match match["word"]:
            case "rests":
                self.rests = at
            case "round":
                self.round = int(at)
            case _:
                self.owed, self.owed_from = match["boot"] or "", int(at)

    def _append(self, lines: Iterable[str]) -> None:
        """Add lines; what a full disk does not take is forgotten with this process."""
        if self._torn:  # else the next line would go on where the last one broke off
            self._rewrite()
            return
        told = [f"{line}\n" for line in lines]
        self._lines += len(told)
        with contextlib.suppress(NodeAgentError), usable(self._file), self._file.open("a") as out:
            out.writelines(told)

    def _rewrite(self) -> None:
        lines = list(self._all())
        with contextlib.suppress(NodeAgentError), usable(self._file):
            write_file(self._file, "".join(f"{line}\n" for line in lines).encode())
            self._torn, self._lines = False, len(lines)

    def _all(self) -> Iterator[str]:
        if self.owed:
            yield f"owed {self.owed_from} {self.owed}"
        if self.round is not None:
            yield f"round {self.round}"
        if self.rests is not None:
            yield f"rests {self.rests:.3f}"
        yield from (_line(*item) for item in self._read.items())


def _line(key: str, one: Read) -> str:
    return f"{key} {one.at} {one.size}"
