"""What goes wrong at an agent's n-th effect on its disk: it ends there, or the disk is full.

An effect is a call that changes a file system, a path that Nix deletes, or another call of Nix.
Whoever ended has no further effect, whatever its `finally` blocks try.
"""

import contextlib
import io
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

from nodeagent import process, store
from nodeagent.nix.database import Database
from nodeagent.process import Completed

GROWING: Final = ("mkdir", "symlink")
OTHERS: Final = ("chmod", "fsync", "rename", "rmdir", "unlink")
NO_ROOM: Final = b"error: executing SQLite statement: database or disk is full"


class Crash(BaseException):
    """The agent ended here."""


@dataclass(frozen=True)
class Fault:
    """After so many effects the agent ends, or the disk is full."""

    after: int
    full: bool = False


class Fuse:
    """Lets faults happen; `full` stays until somebody makes room."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.before_delete: Callable[[Sequence[str]], None] = lambda _: None
        self._lit = self._dead = False
        self._fault: Fault | None = None
        self._left = 0
        for name in GROWING:
            patch.setattr(os, name, self._wrapped(getattr(os, name), grows=True))
        for name in OTHERS:
            patch.setattr(os, name, self._wrapped(getattr(os, name), grows=False))
        patch.setattr(os, "open", self._opening(os.open, lambda mode: bool(mode & os.O_CREAT)))
        patch.setattr(
            io, "open", self._opening(io.open, lambda mode: not {*"wax"}.isdisjoint(mode))
        )
        patch.setattr(store, "_exchange", self._wrapped(store._exchange, grows=False))  # noqa: SLF001
        patch.setattr(Database, "restore", self._wrapped(Database.restore, grows=True))
        patch.setattr(process, "run", self._run)

    @contextlib.contextmanager
    def lit(self, fault: Fault | None) -> Iterator[None]:
        """Let this happen to the agent that works now."""
        self._lit, self._dead = True, False
        self._fault, self._left = fault, fault.after if fault else 0
        try:
            yield
        finally:
            self._lit = False

    @contextlib.contextmanager
    def out(self) -> Iterator[None]:
        """Let what others do meanwhile be no effect of the agent's."""
        lit, self._lit = self._lit, False
        try:
            yield
        finally:
            self._lit = lit

    def _burn(self, *, grows: bool) -> None:
        if not self._lit:
            return
        if self._dead:
            raise Crash
        if self._fault is not None and self._left == 0:
            if not self._fault.full:
                self._dead = True
                raise Crash
            self.full = True
        self._left = max(self._left - 1, 0)
        if self.full and grows:
            raise OSError(28, os.strerror(28))

    def _wrapped(self, real: Callable[..., Any], *, grows: bool) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 whatever `real` takes
            self._burn(grows=grows)
            return real(*args, **kwargs)

        return call

    def _opening(
        self, real: Callable[..., Any], changes: Callable[[Any], bool]
    ) -> Callable[..., Any]:
        def call(place: Any, mode: Any = "r", *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            if changes(mode):
                self._burn(grows=True)
            return real(place, mode, *args, **kwargs)

        return call

    async def _run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,  # noqa: ASYNC109 as the real one has it
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Call Nix without the guard that costs half of the time; it is killed between paths."""
        cut = argv
        if "--delete" in argv:
            at = [*argv].index("--delete") + 1
            with self.out():
                self.before_delete(argv[at:])
            done = self._paths_until_fault(argv[at:])
            cut = argv[: at + done]
            if done:
                self._left = max(self._left - done, 0)
                told = self._call(cut, timeout, stdin, env)
                if told.code != 0 or len(cut) == len(argv):
                    return told
        try:
            self._burn(grows=True)
        except OSError:
            return Completed(argv, 1, b"", NO_ROOM)
        return self._call(argv, timeout, stdin, env)

    def _paths_until_fault(self, paths: Sequence[str]) -> int:
        if self._dead or self.full:
            return 0
        return len(paths) if self._fault is None else min(self._left, len(paths))

    def _call(
        self, argv: Sequence[str], limit: float, stdin: bytes, env: Mapping[str, str] | None
    ) -> Completed:
        with self.out():
            done = subprocess.run(
                argv,
                input=stdin,
                env={**os.environ, **(env or {})},
                capture_output=True,
                timeout=limit,
                check=False,
            )
        return Completed(argv, done.returncode, done.stdout, done.stderr)
