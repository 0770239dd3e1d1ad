"""The cluster for people: `python -m integration.cluster up`."""

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from integration.cluster import Cluster, ClusterError, host, images
from integration.cluster.binaries import binaries

SOON_SECONDS: Final = 1.0


def main() -> int:
    """Do what the command line says; 1 if that fails."""
    args = _parser().parse_args()
    try:
        _do(Cluster(args.number), args)
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _do(cluster: Cluster, args: argparse.Namespace) -> None:
    match args.command:
        case "build":
            host.require()
            sys.stdout.write(f"{binaries()}\n{images.base_image()}\n")
        case "up":
            cluster.up(args.nodes, args.images or [images.base_image()])
            cluster.keep()
        case "down":
            cluster.down(patience=SOON_SECONDS)
        case "load":
            cluster.load(args.images)
        case "stop" | "start" | "reboot" as action:
            getattr(cluster, action)(args.machine)
        case "env":
            found = f"KUBECONFIG={cluster.kubeconfig} PATH={cluster.programs}:$PATH"
            sys.stdout.write(f"export {found}\n")
        case "kubeconfig":
            sys.stdout.write(f"{cluster.kubeconfig}\n")
        case "status":
            _status(cluster)
        case "sh":
            argv = cluster.machine(args.machine).inside(*(args.argv or ["bash"]))
            os.execvp(argv[0], argv)  # The terminal goes with it.


def _status(cluster: Cluster) -> None:
    for machine in cluster.machines():
        pid = machine.pid
        count = len(machine.sh(["ps", "-e"]).stdout.splitlines()) - 1 if pid else 0
        state = f"on, process {pid}, {count} processes in all" if pid else "off"
        address = cluster.lan.address(machine.name)
        sys.stdout.write(f"{machine.name:6} {address:12} {state}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m integration.cluster", description=__doc__)
    parser.add_argument(
        "--number", type=int, default=0, choices=range(10), help="1 is a second cluster, and so on"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="make what is missing: programs and base image")
    up = commands.add_parser("up", help="bring it up, until `down`")
    up.add_argument("nodes", type=int, nargs="?", default=3)
    up.add_argument("images", type=Path, nargs="*", help="OCI archives (default: the base image)")
    commands.add_parser("down", help="remove it; the logs stay")
    load = commands.add_parser("load", help="import OCI archives on every running node")
    load.add_argument("images", type=Path, nargs="+")
    for name, text in {
        "stop": "pull a machine's plug",
        "start": "switch it on again",
        "reboot": "both",
    }.items():
        commands.add_parser(name, help=text).add_argument("machine")
    sh = commands.add_parser("sh", help="run a command in a machine (default bash)")
    sh.add_argument("machine")
    sh.add_argument("argv", nargs=argparse.REMAINDER)
    commands.add_parser("env", help="print what lets a shell find kubectl and the cluster")
    commands.add_parser("kubeconfig", help="print where the admin's kubeconfig is")
    commands.add_parser("status", help="list the machines")
    return parser


if __name__ == "__main__":
    sys.exit(main())
