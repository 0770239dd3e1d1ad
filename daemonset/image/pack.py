# ruff: noqa: INP001 -- a script
"""Pack trees into the layers of an OCI archive, the same bytes from the same files.

pack.py layer TREE OUT | pack.py image OUT NAME ARCHITECTURE LAYER... [LABEL=VALUE...]

`ctr images import`, `skopeo copy oci-archive:` and `buildah pull oci-archive:` take one.
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

OCI: Final = "application/vnd.oci.image."
CREATED: Final = "1970-01-01T00:00:00Z"  # Builds of the same files are the same image.
CONFIG: Final = {
    "Entrypoint": ["nodeagent"],
    "Cmd": ["agent"],
    "Env": [
        "PATH=/opt/venv/bin:/usr/bin",
        "LANG=C.UTF-8",
        "HOME=/tmp",  # Nix keeps a cache there; the root may be read-only.
        "NIX_REMOTE=dummy://",  # The agent names a store; who names none must not make /nix here.
        "PYTHONDONTWRITEBYTECODE=1",
        "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
    ],
    "User": "0:0",
    "WorkingDir": "/",
}
GZIP_LEVEL: Final = 6  # What registries' clients use


def layer(tree: Path, out: Path) -> None:
    """Write a compressed layer: sorted, of root, without times."""
    with (
        out.open("wb") as file,
        gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(tree.rglob("*")):
            tar.add(path, path.relative_to(tree), recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def image(
    out: Path, name: str, architecture: str, layers: Sequence[Path], labels: Mapping[str, str]
) -> None:
    """Write the archive; `name` is what `ctr images import` calls the image."""
    blobs: dict[str, bytes | Path] = {}
    config = _json(
        {
            "created": CREATED,
            "architecture": architecture,
            "os": "linux",
            "config": CONFIG | {"Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [_unpacked_digest(one) for one in layers]},
            "history": [{"created": CREATED, "created_by": one.name} for one in layers],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}manifest.v1+json",
            "config": _add(blobs, "config.v1+json", config),
            "layers": [_add(blobs, "layer.v1.tar+gzip", one) for one in layers],
        }
    )
    entry = _add(blobs, "manifest.v1+json", manifest)
    entry["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name,
    }
    index = _json({"schemaVersion": 2, "manifests": [entry]})
    layout = _json({"imageLayoutVersion": "1.0.0"})
    _archive(out, {"oci-layout": layout, "index.json": index} | blobs)
    size = sum(one.stat().st_size for one in layers)
    sys.stderr.write(f"{name}: {size / 1e6:.1f} MB compressed, in {len(layers)} layers\n")


def _archive(out: Path, members: Mapping[str, bytes | Path]) -> None:
    with tarfile.open(out, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = _size(content)
            with _open(content) as file:
                tar.addfile(info, file)


def _add(blobs: dict[str, bytes | Path], kind: str, content: bytes | Path) -> dict[str, Any]:
    digest = _digest(content)
    blobs[f"blobs/{digest.replace(':', '/')}"] = content
    return {"mediaType": OCI + kind, "digest": digest, "size": _size(content)}


def _open(content: bytes | Path) -> IO[bytes]:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _digest(content: bytes | Path) -> str:
    with _open(content) as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _unpacked_digest(layer: Path) -> str:
    with gzip.open(layer) as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def main(command: str, *arguments: str) -> None:
    """Run one of the two commands."""
    if command == "layer":
        layer(*map(Path, arguments))
        return
    out, name, architecture, *rest = arguments
    labels = dict(one.split("=", 1) for one in rest if "=" in one)
    layers = [Path(one) for one in rest if "=" not in one]
    image(Path(out), name, architecture, layers, labels)


if __name__ == "__main__":
    main(*sys.argv[1:])
