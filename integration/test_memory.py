"""Memory while pouring is bounded by design: one chunk a worker, whatever a path's size."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from integration import closures
from integration.closures import Tree
from integration.site import SYSTEM, Site
from nodeagent import release
from nodeagent.bake import build
from nodeagent.bake.directory import CacheDirectory
from nodeagent.bake.spec import Part
from nodeagent.messages import encode
from nodeagent.realise.jobs import Done, Job, Progress, Setup, Where, read_event
from nodeagent.release import Profile, parse_index

BIG_BYTES = 400_000_000
SMALL_BYTES = 4_000_000
HEADROOM_KIB = 24 * 1024


async def test_a_worker_needs_no_more_memory_for_a_big_path_than_for_a_small_one(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    small = await asyncio.to_thread(peak_kib, site, await publish(site, SMALL_BYTES))
    big = await asyncio.to_thread(peak_kib, site, await publish(site, BIG_BYTES))
    assert big < small + HEADROOM_KIB, f"{small} KiB for a small path, {big} KiB for a big one"


async def publish(site: Site, size: int) -> bytes:
    """Bake one path with one file that compresses very well."""

    def fill(real: Path) -> None:
        real.mkdir()
        with (real / "file").open("wb") as file:
            file.truncate(size)

    builder, path = site.root / f"builder-{size}", closures.made_up(f"zeros-{size}")
    builder.mkdir()
    closures.add_trees(builder, [Tree(path, fill)])
    part = Part(SYSTEM, builder, {"ds": Profile(root=path)})
    means = build.Means(CacheDirectory(site.cache), site.cache_key)
    return (await build.build([part], means)).manifest


def peak_kib(site: Site, manifest: bytes) -> int:
    """Pour the release's one path in a worker of its own; give the worker's peak RSS."""
    digest = release.digest_of(manifest)
    [(path, info)] = release.parse(manifest, digest).systems[SYSTEM].paths.items()
    index = parse_index((site.cache / release.index_file(digest)).read_bytes())
    location = index.paths[path]
    staging = site.root / "staging"
    staging.mkdir(exist_ok=True)
    setup = Setup([("main", site.cache.as_uri())], [site.cache_key.public], str(staging))
    where = Where(location.url, location.compression, location.sigs)
    job = Job(path, info.nar_hash, info.nar_size, info.references, where)
    with subprocess.Popen(
        [sys.executable, "-m", "nodeagent.realise.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(encode(setup) + encode(job))
        worker.stdin.close()
        *progress, last = [read_event(line) for line in worker.stdout]
        _, code, usage = os.wait4(worker.pid, 0)
        worker.returncode = code
    assert isinstance(last, Done)
    told = sum(one.bytes for one in progress if isinstance(one, Progress))
    assert told == info.nar_size if info.nar_size > BIG_BYTES else told in {0, info.nar_size}
    return usage.ru_maxrss
