"""A slow line to etcd: a TCP proxy in the control plane's network that delays, and hangs up.

`python -m integration.fleet_proxy LISTEN TARGET` takes its orders from stdin, a line each: a number
of seconds for every piece to wait, or `drop`. It reads no more than it has passed on, so what it
holds is bounded; it ends with its stdin.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from integration.cluster import Cluster
from integration.cluster.network import CONTROL_PLANE

LISTEN: Final = 12379
ETCD: Final = 2379
MARK: Final = 12379  # on the proxy's own connections, which are not led to it
PIECE: Final = 64 * 1024
TABLE: Final = "slow_etcd"
RULES: Final = f"""
table ip {TABLE} {{
    chain output {{
        type nat hook output priority -100;
        ip daddr 127.0.0.1 tcp dport {ETCD} meta mark != {MARK} redirect to :{LISTEN}
    }}
}}
"""


@dataclass
class Proxy:
    """Passes bytes on between clients and a port of this machine."""

    target: int
    delay: float = 0.0
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until one side ends."""
        line = socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", self.target))
            there = await asyncio.open_connection(sock=line)
            self.writers |= {writer, there[1]}
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._pass_on(reader, there[1]))
                    tasks.create_task(self._pass_on(there[0], writer))
            except* OSError:
                pass
            self.writers -= {writer, there[1]}
            there[1].close()
        line.close()
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(PIECE):
            await asyncio.sleep(self.delay)
            writer.write(piece)
            await writer.drain()
        raise ConnectionResetError  # One side alone is of no use to the other.

    def obey(self, order: str) -> None:
        """Do what a line says."""
        if order == "drop":
            for writer in self.writers:
                writer.transport.abort()
        else:
            self.delay = float(order)


async def run(listen: int, target: int) -> None:
    """Serve until stdin ends."""
    proxy = Proxy(target)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", listen):
        sys.stdout.write("serving\n")
        sys.stdout.flush()
        while line := await asyncio.to_thread(sys.stdin.readline):
            proxy.obey(line.strip())


@dataclass(frozen=True)
class SlowEtcd:
    """The line between API server and etcd."""

    process: subprocess.Popen[str]

    def order(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def between(cluster: Cluster) -> Iterator[SlowEtcd]:
    """Put a proxy between API server and etcd; the API server starts anew, to come through it."""
    inside = ["nsenter", "--target", str(cluster.machine(CONTROL_PLANE).pid), "--net", "--"]
    argv = [*inside, sys.executable, "-m", "integration.fleet_proxy", str(LISTEN), str(ETCD)]
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "serving\n"
            subprocess.run([*inside, "nft", "-f", "-"], input=RULES, text=True, check=True)
            restart(cluster)
            yield SlowEtcd(process)
        finally:
            delete = [*inside, "nft", "delete", "table", "ip", TABLE]
            subprocess.run(delete, check=False)
            process.kill()
            restart(cluster)  # Each of its connections would notice only when it is used.


def restart(cluster: Cluster) -> None:
    """Kill the API server, which comes back by itself."""
    cluster.sh(CONTROL_PLANE, ["sh", "-c", "kill -KILL $(pidof -s kube-apiserver)"])
    cluster.until("answering: the API server", lambda: cluster.answers("--raw", "/readyz"))


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), int(sys.argv[2])))
