"""The second executor: the Nix daemon that owns the store fetches by itself.

It unpacks in place, so that half a path may be seen in the store directory; no gate is open on
it. What it fetched counts only if the store then says the hash that the manifest says.
"""

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason
from nodeagent.nix import Nix
from nodeagent.plan import Step
from nodeagent.store import StoreFiles

_ANSWER_SECONDS: Final = 5.0


def daemon(root: Path, executor: str) -> Path | None:
    """Give the socket of the Nix daemon to work through, None to pour ourselves.

    Raises SettingInvalid if the executor `nix` is wanted and no daemon answers.
    """
    place = root / "nix/var/nix/daemon-socket/socket"
    if executor == "pour":
        return None
    if _answers(place):
        return place
    if executor == "nix":
        raise NodeAgentError(
            Reason.SETTING_INVALID,
            f"no Nix daemon answers at {place}; start it, or choose --executor pour",
        )
    return None


def _answers(place: Path) -> bool:
    """Tell whether somebody listens; an address of a socket has 107 bytes, a path may have more."""
    try:
        directory = os.open(place.parent, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_ANSWER_SECONDS)
            probe.connect(f"/proc/self/fd/{directory}/{place.name}")
    except OSError:
        return False
    finally:
        os.close(directory)
    return True


async def fetch(
    steps: Sequence[Step],
    nix: Nix,
    files: StoreFiles,
    caches: Sequence[tuple[str, str]],
    cache_keys: Sequence[str],
) -> Mapping[str, NodeAgentError]:
    """Let the daemon bring these paths, rooted first; give those it did not, and why."""
    paths = [step.path for step in steps]
    await asyncio.to_thread(files.root_pending, paths)
    trouble: NodeAgentError | None = None
    for name, address in caches:
        try:
            await _require_agreement(steps, nix, name, address)
            await nix.copy(address, paths, cache_keys)
            break
        except NodeAgentError as error:
            if error.reason not in {Reason.NIX_FAILED, Reason.NAR_CORRUPT}:
                raise
            trouble = error
    valid = await asyncio.to_thread(nix.valid)
    return {step.path: _refusal(step, valid, trouble) for step in steps if not _is(step, valid)}


async def _require_agreement(steps: Sequence[Step], nix: Nix, name: str, address: str) -> None:
    """Ask a cache before it is copied from: what is valid with another hash would stay."""
    offered = await nix.offered(address, [step.path for step in steps])
    for step in steps:
        if offered.get(step.path, step.info.nar_hash) != step.info.nar_hash:
            raise NodeAgentError(
                Reason.NAR_CORRUPT,
                f"{step.path} has hash {offered[step.path]} in cache {name} instead of "
                f"{step.info.nar_hash}; publish the release there again",
            )


def _is(step: Step, valid: Mapping[str, str]) -> bool:
    return valid.get(step.path) == step.info.nar_hash


def _refusal(
    step: Step, valid: Mapping[str, str], trouble: NodeAgentError | None
) -> NodeAgentError:
    found = valid.get(step.path)
    if found is not None:
        return NodeAgentError(
            Reason.NAR_CORRUPT,
            f"{step.path} has hash {found} in the store of the Nix daemon instead of "
            f"{step.info.nar_hash}; publish the release there again",
        )
    return trouble or NodeAgentError(
        Reason.NAR_MISSING, f"no cache to fetch {step.path} from; publish the release there again"
    )
