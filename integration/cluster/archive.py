"""Image archives: packed from a directory, imported without a registry.

Format: the OCI image layout 1.0.0 in one tar file; containerd takes the image's name from an
annotation.
"""

import hashlib
import io
import json
import platform
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

from integration.cluster.commands import ClusterError

MEDIA: Final = "application/vnd.oci.image"
PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture() -> str:
    """Name this machine's processor as images do."""
    return MACHINES[platform.machine()]


def pack(rootfs: Path, image: str, archive: Path, entrypoint: Sequence[str]) -> None:
    """Pack a directory as an image of one plain layer; `image` is `name:tag`."""
    with tempfile.TemporaryFile(dir=archive.parent) as layer:
        with tarfile.open(fileobj=layer, mode="w") as tar:
            tar.add(rootfs, arcname=".")
        layer.seek(0)
        layer_digest = f"sha256:{hashlib.file_digest(layer, 'sha256').hexdigest()}"
        config = _json(
            {
                "architecture": architecture(),
                "os": "linux",
                "config": {"Entrypoint": list(entrypoint), "Env": [PATH]},
                "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
            }
        )
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{MEDIA}.manifest.v1+json",
                "config": _descriptor("config.v1+json", config),
                "layers": [
                    {
                        "mediaType": f"{MEDIA}.layer.v1.tar",
                        "digest": layer_digest,
                        "size": layer.seek(0, io.SEEK_END),
                    }
                ],
            }
        )
        with tarfile.open(archive, "w") as tar:
            _add(tar, "oci-layout", io.BytesIO(_json({"imageLayoutVersion": "1.0.0"})))
            _add(tar, "index.json", io.BytesIO(_index(manifest, image)))
            for blob in (manifest, config):
                _add(tar, _blob(_digest(blob)), io.BytesIO(blob))
            _add(tar, _blob(layer_digest), layer)


def fingerprint(archive: Path) -> str:
    """Digest an archive's index: it holds the digests of all the rest, so this is quick."""
    with tarfile.open(archive) as tar:
        try:
            index = tar.extractfile("index.json")
        except KeyError:
            index = None
        if index is None:
            raise ClusterError(f"{archive} has no index.json: an OCI archive is needed")
        return hashlib.sha256(index.read()).hexdigest()


def _index(manifest: bytes, image: str) -> bytes:
    tag = image.rpartition(":")[2]
    names = {"io.containerd.image.name": image, "org.opencontainers.image.ref.name": tag}
    named = _descriptor("manifest.v1+json", manifest) | {"annotations": names}
    return _json({"schemaVersion": 2, "manifests": [named]})


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": f"{MEDIA}.{kind}", "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _add(tar: tarfile.TarFile, name: str, data: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size = data.seek(0, io.SEEK_END)
    data.seek(0)
    tar.addfile(info, data)
