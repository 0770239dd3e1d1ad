"""Running programs to their end, and the one error of the cluster."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

SHOWN: Final = 2000
TIMEOUT_SECONDS: Final = 120.0
Completed = subprocess.CompletedProcess[str]


class ClusterError(Exception):
    """What failed, why, and the next step."""


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | Path | None = None,
    check: bool = True,
    timeout: float = TIMEOUT_SECONDS,
) -> Completed:
    """Run to the end, reading a text or a file; with `check`, only exit code 0 is no ClusterError.

    Without `stdin` it reads the end of it, never the terminal of who runs the tests.
    """
    words = [str(word) for word in argv]
    try:
        with _input(stdin) as file:
            done = subprocess.run(
                words, stdin=file, capture_output=True, text=True, timeout=timeout, check=False
            )
    except FileNotFoundError:
        raise ClusterError(f"no program {words[0]}; `make setup` installs it") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{' '.join(words)}: not done after {timeout:.0f} s") from None
    if check and done.returncode:
        said = (done.stderr or done.stdout)[-SHOWN:].strip()
        raise ClusterError(f"{' '.join(words)}: exit code {done.returncode}: {said}")
    return done


@contextlib.contextmanager
def _input(stdin: str | Path | None) -> Iterator[IO[bytes]]:
    if isinstance(stdin, Path):
        with stdin.open("rb") as file:
            yield file
    else:
        with tempfile.TemporaryFile() as scratch:
            scratch.write((stdin or "").encode())
            scratch.seek(0)
            yield scratch
