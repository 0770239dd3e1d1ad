"""`nodeagent status`: what an agent says of itself, for people."""

import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Final

import urllib3
from pydantic import ValidationError

from nodeagent import cache, model
from nodeagent.errors import NodeAgentError
from nodeagent.names import SETTLED, Reason
from nodeagent.release import digest12
from nodeagent.report import Collection, Repair, ScrubProgress, Status

SHOWN: Final = 3

POLL_SECONDS: Final = 0.25
TIMEOUT_SECONDS: Final = 5.0
COLLECT_SECONDS: Final = 3600.0  # it waits for a pass that pours, and deletes much
_TOLD: Final = {"conflicts", "pass"}  # checks that have lines of their own
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


def fetch(url: str) -> Status:
    """Ask an agent; raises NodeAgentError if there is none or it is no agent."""
    try:
        answer = urllib3.request("GET", f"{url}/v1/status", timeout=TIMEOUT_SECONDS, retries=False)
        return Status.model_validate_json(answer.data)
    except urllib3.exceptions.HTTPError as error:
        cause = cache.explain(error)
    except ValidationError as error:
        cause = f"its answer is not an agent's: {model.explain(error)}"
    raise NodeAgentError(
        Reason.AGENT_UNREACHABLE,
        f"no agent answers at {url}: {cause}; start `nodeagent agent`, or name another with --url",
    )


def collect(url: str, *, dry: bool, paths: bool) -> Collection:
    """Have the agent beside us collect, or say what would go; raises NodeAgentError."""
    wishes = [name for name, wish in (("dryRun", dry), ("paths", paths)) if wish]
    try:
        answer = urllib3.request(
            "POST", f"{url}/v1/collect?{'&'.join(wishes)}", timeout=COLLECT_SECONDS, retries=False
        )
        if answer.status == HTTPStatus.OK:
            return Collection.model_validate_json(answer.data)
        cause = answer.data.decode(errors="replace").strip() or f"status {answer.status}"
    except urllib3.exceptions.HTTPError as error:
        cause = cache.explain(error)
    except ValidationError as error:
        cause = f"its answer is not an agent's: {model.explain(error)}"
    raise NodeAgentError(
        Reason.AGENT_UNREACHABLE,
        f"the agent at {url} did not collect: {cause}; run this where the agent runs, in a cluster "
        "by `kubectl exec`, or name another with --url",
    )


def collection_lines(done: Collection, *, dry: bool) -> Iterator[str]:
    """Say what becomes of each release, and what was deleted."""
    for one in done.releases:
        yield f"{one.step:9} {digest12(one.release)}  {one.reason}"
    for path, reason in done.paths.items():
        yield f"{path}  {reason}"
    if not dry:
        yield f"deleted   {done.paths_deleted} paths, {amount(done.bytes_deleted)}"


def lines(status: Status) -> Iterator[str]:
    """Say it in a few lines of plain text."""
    place = f"fleet {status.fleet}, channel {status.channel}, {status.system}"
    yield f"node      {status.node} ({place})"
    yield f"ready     {'yes' if status.ready else 'no'}"
    yield f"phase     {status.phase}"
    for name, target in (("wanted", status.wanted), ("published", status.published)):
        yield f"{name:9} " + (f"{target.release} serial {target.serial}" if target else "nothing")
    for name, profile in sorted(status.profiles.items()):
        gate = "" if profile.published else "  (gate shut)"
        yield f"profile   {name} {profile.kind} {profile.root}{gate}"
    for name, systems in status.elsewhere.items():
        yield f"profile   {name} is in the release for {', '.join(systems)} only"
    if status.progress is not None:
        yield f"progress  {progress_text(status)}"
    if status.scrub is not None:
        yield f"scrub     {_scrub_text(status.scrub)}"
    yield from _path_lines(status)
    for check in status.failed_checks:
        if check.name not in _TOLD:
            yield f"{check.name:9} {check.reason}: {check.message}"
    if status.problem is not None:
        yield f"problem   {status.problem.reason}: {status.problem.message}"


def progress_text(status: Status) -> str:
    """Say how far a pass is."""
    now = status.progress
    if now is None:
        return str(status.phase)
    share = now.bytes_done / now.bytes_total if now.bytes_total else 1.0
    left = "" if now.eta_seconds is None else f", {now.eta_seconds:.0f} s left"
    return (
        f"{share:.0%}, {amount(now.bytes_done)} of {amount(now.bytes_total)}, "
        f"{now.paths_done} of {now.paths_total} paths, {amount(now.bytes_per_second)}/s{left}"
    )


def _path_lines(status: Status) -> Iterator[str]:
    """Say which paths are not, or were not, as released."""
    for one in status.repairs:
        yield f"repaired  {_repair_text(one)}"
    for path in status.conflicts:
        yield f"conflict  {path} was valid with another hash than released and stays as it is"


def _repair_text(one: Repair) -> str:
    users = f" and use {', '.join(one.profiles)}" if one.profiles else ""
    return (
        f"{one.path} at {one.at:%Y-%m-%dT%H:%M:%SZ}: containers that started before{users} may "
        f"hold the old one until they are restarted{_some(one.restart)}; it is kept as {one.kept}"
    )


def _some(containers: Sequence[str]) -> str:
    if not containers:
        return ""
    more = f" and {len(containers) - SHOWN} more" if len(containers) > SHOWN else ""
    return f" ({', '.join(containers[:SHOWN])}{more})"


def _scrub_text(scrub: ScrubProgress) -> str:
    damaged = f", {scrub.damaged} damaged" if scrub.damaged else ""
    return (
        f"{'' if scrub.running else 'ended: '}{amount(scrub.bytes_done)} of "
        f"{amount(scrub.bytes_total)}, {scrub.paths_done} of {scrub.paths_total} paths{damaged}"
    )


def amount(count: float) -> str:
    """Write bytes in decimal units, as disks and networks are sold."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def follow(url: str) -> Status:
    """Show a progress bar on the terminal while a pass runs; give the status after it."""
    from rich import progress  # only where a terminal is attached

    status = fetch(url)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, transient=True) as bar:
        task = bar.add_task(status.phase, total=None)
        while status.phase not in SETTLED:
            bar.update(task, description=status.phase)
            if status.progress is not None:
                now = status.progress
                bar.update(task, completed=now.bytes_done, total=now.bytes_total)
            time.sleep(POLL_SECONDS)
            status = fetch(url)
    return status
