"""The agent's image for the tests, made by the script that makes it for everybody."""

import copy
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pytest

NAME: Final = "localhost/nodeagent:dev"
REPOSITORY: Final = Path(__file__).parents[1]
RECIPE: Final = REPOSITORY / "daemonset/image"
KEPT: Final = 3  # archives of this many states of the code
PLAIN_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
Changes = Mapping[str, Mapping[str, str]]  # by module: text by the text whose place it takes
TOOLS: Final = ("apt-get", "mmdebstrap", "unshare")


@dataclass(frozen=True)
class Image:
    """What an OCI archive holds."""

    archive: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        [entry] = json.loads(self._read("index.json"))["manifests"]
        return self._blob(entry["digest"])

    @cached_property
    def config(self) -> dict[str, Any]:
        """How it is run."""
        config: dict[str, Any] = self._blob(self.manifest["config"]["digest"])["config"]
        return config

    @property
    def environment(self) -> dict[str, str]:
        return dict(one.split("=", 1) for one in self.config["Env"])

    @property
    def compressed_bytes(self) -> int:
        """What a node downloads."""
        return sum(layer["size"] for layer in self.manifest["layers"])

    def unpack(self, root: Path) -> None:
        """Lay its layers over each other."""
        root.mkdir()
        for layer in self.manifest["layers"]:
            data = self._read(_member(layer["digest"]))
            subprocess.run(["tar", "-xzp", "-C", root], input=data, check=True)

    def with_changes(self, out: Path, name: str, changes: Changes) -> Path:
        """Write an archive of the same image with other texts in modules of ours.

        It has one more layer and none of the others, which OCI allows: a node that has this
        image has them. Each text to be replaced must be there once.
        """
        layer = self._changed(changes)
        config = self._blob(self.manifest["config"]["digest"])
        config["rootfs"]["diff_ids"].append(_digest(layer))
        manifest = copy.deepcopy(self.manifest)
        described = _json(config)
        manifest["config"] |= _described(described)
        manifest["layers"].append({"mediaType": PLAIN_LAYER, **_described(layer)})
        listed = json.loads(self._read("index.json"))
        [entry] = listed["manifests"]
        entry |= _described(_json(manifest))
        entry["annotations"] = dict.fromkeys(entry["annotations"], name)
        blobs = {_member(_digest(one)): one for one in (layer, described, _json(manifest))}
        files = {"oci-layout": self._read("oci-layout"), "index.json": _json(listed), **blobs}
        out.write_bytes(_tar(files))
        return out

    def _changed(self, changes: Changes) -> bytes:
        """Make the layer that changes modules; what was compiled of them is whited out in it."""
        code = io.BytesIO(self._read(_member(self.manifest["layers"][-1]["digest"])))
        files: dict[str, bytes] = {}
        with tarfile.open(fileobj=code) as tar:
            for module, texts in changes.items():
                [source] = [one for one in tar.getnames() if one.endswith(f"-packages/{module}")]
                place = Path(source)
                [compiled] = [
                    Path(one)
                    for one in tar.getnames()
                    if Path(one).match(f"{place.parent}/__pycache__/{place.stem}.*.pyc")
                ]
                file = tar.extractfile(source)
                assert file is not None
                text = file.read().decode()
                for old, new in texts.items():
                    assert text.count(old) == 1, f"{module} has {old!r} {text.count(old)} times"
                    text = text.replace(old, new)
                files[source] = text.encode()
                files[f"{compiled.parent}/.wh.{compiled.name}"] = b""
        return _tar(files)

    def _blob(self, digest: str) -> dict[str, Any]:
        blob: dict[str, Any] = json.loads(self._read(_member(digest)))
        return blob

    def _read(self, name: str) -> bytes:
        with tarfile.open(self.archive) as archive:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()


def agent_image() -> Path:
    """Give an OCI archive of the code as it is now, named `NAME`; at once if it is there.

    Without what it takes the calling test is skipped; in CI it fails.
    """
    need(TOOLS)
    return kept("agent-image", sources, build, KEPT)


def build(out: Path) -> Path:
    """Run the script; what does not depend on our code comes from its own cache."""
    environment = {**os.environ, "IMAGE": NAME, "CACHE": str(_cache() / "image")}
    output(str(RECIPE / "build.sh"), str(out), env=environment)
    return out


def sources() -> list[Path]:
    """List all files that the image is made from."""
    code = [one for one in (REPOSITORY / "nodeagent").rglob("*") if "__pycache__" not in one.parts]
    recipe = [*RECIPE.glob("*.sh"), *RECIPE.glob("*.py")]
    return [REPOSITORY / "requirements.lock", REPOSITORY / "pyproject.toml", *recipe, *code]


def need(tools: Iterable[str]) -> None:
    """Skip the calling test if something is missing here; fail it in CI."""
    missing = ["root"] if os.geteuid() != 0 else []
    missing += [one for one in tools if shutil.which(one) is None]
    if missing:
        reason = f"an image cannot be built without {', '.join(missing)}; run tooling/setup.sh"
        (pytest.fail if "CI" in os.environ else pytest.skip)(reason)


def kept(
    name: str, files: Callable[[], Iterable[Path]], make: Callable[[Path], Path], count: int
) -> Path:
    """Give an archive that was made from files as they are now; make it if there is none."""
    archives = _cache() / name
    archives.mkdir(parents=True, exist_ok=True)
    with (archives / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        while not (archive := archives / f"{key(files())}.tar").exists():
            made = make(archives / "making")
            # If somebody edited meanwhile, what was made belongs to no key.
            made.rename(archive) if archives / f"{key(files())}.tar" == archive else made.unlink()
        archive.touch()
        by_age = sorted(archives.glob("*.tar"), key=lambda one: one.stat().st_mtime)
        for old in by_age[:-count]:
            old.unlink()
    return archive


def key(files: Iterable[Path]) -> str:
    """Hash names and contents."""
    digest = hashlib.sha256()
    for file in sorted(one for one in files if one.is_file()):
        data = file.read_bytes()
        digest.update(f"{file.relative_to(REPOSITORY)} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]


def output(*argv: str, env: dict[str, str] | None = None) -> str:
    """Run a program to its good end; give its stdout."""
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv[:6])} failed:\n{done.stderr[-3000:]}"
    return done.stdout


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodeagent-test"


def _tar(files: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return archive.getvalue()


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _described(data: bytes) -> dict[str, Any]:
    return {"digest": _digest(data), "size": len(data)}


def _member(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"
