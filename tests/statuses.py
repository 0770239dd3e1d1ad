"""Status documents, as an agent would give them, and who gives them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from nodeagent.names import Phase, Reason
from nodeagent.report import (
    FailedCheck,
    Problem,
    ProfileStatus,
    Progress,
    Repair,
    ScrubProgress,
    Status,
    Target,
)
from tests.handmade import NOW, SYSTEM, digest, path

IDLE: Final = Status(
    version="1.2.3",
    node="node-1",
    fleet="ml",
    channel="stable",
    system=SYSTEM,
    phase=Phase.IDLE,
    ready=True,
    wanted=Target(release=digest(7), channel="stable", serial=7),
    published=Target(release=digest(7), channel="stable", serial=7),
    profiles={"ds": ProfileStatus(root=path("ds"), kind="env", published=True)},
    progress=None,
    problem=None,
    elsewhere={"ml": ("aarch64-linux",)},
)
POURING: Final = Progress(
    bytes_done=250_000_000,
    bytes_total=1_000_000_000,
    paths_done=3,
    paths_total=12,
    bytes_per_second=25_000_000.0,
    eta_seconds=30.0,
)
SCRUB: Final = ScrubProgress(
    running=True,
    bytes_done=250_000_000,
    bytes_total=1_000_000_000,
    paths_done=3,
    paths_total=12,
    damaged=1,
)
CONTAINERS: Final = ("team/a/c", "team/b/c", "team/c/c", "team/d/c", "team/e/c")
REPAIR: Final = Repair(
    path=path("item"),
    fault="it smells",
    at=NOW,
    kept="/nix/kept/item",
    profiles=("ds",),
    restart=CONTAINERS,
)
STATUS: Final = IDLE.model_copy(
    update={
        "phase": Phase.POURING,
        "ready": False,
        "wanted": Target(release=digest(8), channel="stable", serial=8),
        "profiles": {"ds": ProfileStatus(root=path("ds"), kind="env", published=False)},
        "progress": POURING,
        "problem": Problem(reason=Reason.PATH_DAMAGED, message="it vanished", since=NOW),
        "conflicts": (path("conflict"),),
        "scrub": SCRUB,
        "repairs": (REPAIR, REPAIR.model_copy(update={"path": path("old"), "profiles": ()})),
        "failed_checks": (
            FailedCheck(
                name="pass", needed=False, reason=Reason.PATH_DAMAGED, message="it vanished"
            ),
            FailedCheck(
                name="policy", needed=False, reason=Reason.POLICY_NOT_ENFORCED, message="none"
            ),
        ),
    }
)


@contextmanager
def agent(*bodies: str) -> Iterator[str]:
    """Answer with each body in turn, then with the last one; give the address."""
    left = list(bodies)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (left.pop(0) if len(left) > 1 else left[0]).encode()
            self.send_response(200 if self.path == "/v1/status" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def written(*documents: Status) -> Sequence[str]:
    return [one.model_dump_json(by_alias=True) for one in documents]
