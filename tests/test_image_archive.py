"""The archive that containerd imports: an OCI layout whose digests and sizes are right."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from integration.cluster import ClusterError, archive


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    rootfs = tmp_path / "rootfs"
    (rootfs / "bin").mkdir(parents=True)
    (rootfs / "bin/tool").write_text("a tool")
    (rootfs / "bin/tool").chmod(0o755)
    (rootfs / "bin/alias").symlink_to("tool")
    target = tmp_path / "image.tar"
    archive.pack(rootfs, "localhost/it:7", target, ["/bin/tool"])
    return target


def contents(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as tar:
        opened = {member.name: tar.extractfile(member) for member in tar}
        return {name: data.read() for name, data in opened.items() if data is not None}


def blob(files: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    """Follow a descriptor, which must be right."""
    data = files[f"blobs/{descriptor['digest'].replace(':', '/')}"]
    assert descriptor["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert descriptor["size"] == len(data)
    return data


def test_every_descriptor_leads_to_what_it_says(packed: Path) -> None:
    files = contents(packed)
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    [named] = json.loads(files["index.json"])["manifests"]
    assert named["annotations"]["io.containerd.image.name"] == "localhost/it:7"
    manifest = json.loads(blob(files, named))
    config = json.loads(blob(files, manifest["config"]))
    [layer] = manifest["layers"]
    assert config["config"]["Entrypoint"] == ["/bin/tool"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    with tarfile.open(fileobj=io.BytesIO(blob(files, layer))) as tar:
        assert tar.getmember("./bin/tool").mode == 0o755
        assert tar.getmember("./bin/alias").linkname == "tool"


def test_the_scratch_layer_does_not_stay(packed: Path) -> None:
    assert sorted(path.name for path in packed.parent.iterdir()) == ["image.tar", "rootfs"]


def test_another_content_or_name_is_another_fingerprint(packed: Path) -> None:
    rootfs, other = packed.parent / "rootfs", packed.parent / "other.tar"
    seen = {archive.fingerprint(packed)}
    archive.pack(rootfs, "localhost/it:7", other, ["/bin/tool"])
    assert {archive.fingerprint(other)} == seen
    archive.pack(rootfs, "localhost/it:8", other, ["/bin/tool"])
    seen.add(archive.fingerprint(other))
    (rootfs / "bin/tool").write_text("another tool")
    archive.pack(rootfs, "localhost/it:7", other, ["/bin/tool"])
    seen.add(archive.fingerprint(other))
    assert len(seen) == 3


def test_what_is_no_oci_archive_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "plain.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"))
    with pytest.raises(ClusterError, match=r"plain\.tar has no index\.json: an OCI archive"):
        archive.fingerprint(tmp_path / "plain.tar")
