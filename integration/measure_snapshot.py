"""What the controller costs in a large cluster, against an API server that is there for this alone.

`python -m integration.measure_snapshot`: some minutes, most of them making 15,000 objects.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from integration.apiserver import BASE, api_server
from nodeagent.bench import run
from nodeagent.bench.room import Room

RUNS: Final = int(os.environ.get("RUNS", "3"))
HOLDING_SECONDS: Final = 600.0


def main() -> None:
    """Run an API server and the bench."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        with api_server(directory, "namespace.yaml", "crd.yaml") as (_, admin):
            for name in ("certificates.yaml", "webhook.yaml"):
                admin.kubectl("apply", "-f", str(BASE.parent / "controller" / name))
            kubeconfig = directory / "admin.kubeconfig"
            room = Room(directory, directory, RUNS, HOLDING_SECONDS, kubeconfig=kubeconfig)
            met = asyncio.run(run.run(["snapshot"], room))
    sys.exit(not met)


if __name__ == "__main__":
    main()
