"""Our archives are Nix's to the byte, and so are the trees that we make of its archives."""

import hashlib
import os
import random
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import psutil
import pytest
import zstandard

from nodeagent import keys, nar, storepath
from nodeagent.messages import encode
from nodeagent.realise.jobs import Done, Job, Progress, Setup, Where, read_event
from nodeagent.realise.run import WORKER
from nodeagent.store import remove
from tests import handmade, nars
from tests.handmade import CACHE_KEY
from tests.nars import Directory, File, Link, Tree

pytestmark = pytest.mark.skipif(
    not shutil.which("nix-store"), reason="nix-store is not installed: nothing to compare with"
)

TREES = 600  # to dump and restore by Nix, one by one in batches
POURED = 6_000  # and as many spoiled ones
POURED_PER_CALL = 250
ASKED = 60  # spoiled archives that Nix is asked about, too
MOST_BYTES = 1 << 16
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
PER_CALL = 50  # Trees side by side in one directory: a call of Nix takes longer than a tree.
SAMPLES: list[Tree] = [
    File(),
    File(b"x", executable=True),
    File(bytes(nars.CHUNK + 3)),
    Link(b"nowhere"),
    Link(b"t" * 4095),
    Directory(),
    nars.buried(File(b"deep"), 100),
]


@dataclass(frozen=True)
class Both:
    """A tree on disk, what it was made of, and Nix's archive of it."""

    tree: Tree
    path: Path
    archive: bytes


def generated(count: int, sizes: Sequence[int]) -> list[Tree]:
    """Collect trees from Hypothesis; it shrinks nothing here, but the smallest culprit is told."""
    found: list[Tree] = []

    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        derandomize=False,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(nars.trees(sizes=sizes))
    def collect(tree: Tree) -> None:
        found.append(tree)

    collect()
    return found


@pytest.fixture(scope="module")
def pairs() -> Iterator[list[Both]]:
    trees = generated(TREES, nars.SIZES)
    assert len(trees) >= 500
    batches = [trees[at : at + PER_CALL] for at in range(0, len(trees), PER_CALL)]
    sides: list[Tree] = [
        Directory({b"%03d" % at: tree for at, tree in enumerate(one)}) for one in batches
    ]
    with nars.scratch() as scratch:
        yield [_dumped(tree, scratch / f"{at}") for at, tree in enumerate([*sides, *SAMPLES])]


def _dumped(tree: Tree, path: Path) -> Both:
    nars.write(tree, os.fsencode(path))
    dumped = subprocess.run(["nix-store", "--dump", path], capture_output=True, check=True)
    return Both(tree, path, dumped.stdout)


def _culprit(tree: Tree, left: bytes, right: bytes) -> str:
    """Name the smallest tree of a batch that the two sides differ in."""
    inner = tree.entries.values() if isinstance(tree, Directory) else []
    wrong = [one for one in inner if (nars.node(one) in left) != (nars.node(one) in right)]
    return f"differs in {min(map(repr, wrong), key=len, default=repr(tree))[:2000]}"


def test_a_dump_is_nixs_to_the_byte(pairs: list[Both]) -> None:
    for one in pairs:
        ours = b"".join(nar.dump(os.fsencode(one.path)))
        assert ours == one.archive, _culprit(one.tree, ours, one.archive)


def test_measuring_gives_the_size_of_nixs_dump(pairs: list[Both]) -> None:
    for one in pairs:
        assert nar.measure(os.fsencode(one.path)) == len(one.archive)


def test_the_tests_own_writer_agrees_with_nix(pairs: list[Both]) -> None:
    for one in pairs:
        ours = nars.encode(one.tree)
        assert ours == one.archive, _culprit(one.tree, ours, one.archive)


def test_unpacking_nixs_dump_gives_what_nix_restores(pairs: list[Both]) -> None:
    for one in pairs:
        with nars.scratch() as scratch:
            ours, theirs = scratch / "ours", scratch / "theirs"
            nar.unpack(nars.reader(one.archive), os.fsencode(ours), len(one.archive))
            subprocess.run(["nix-store", "--restore", theirs], input=one.archive, check=True)
            unpacked = nars.read(os.fsencode(ours))
            assert unpacked == nars.read(os.fsencode(theirs)) == one.tree


class Worker:
    """A pour worker with its cache and staging; what it is to trust is signed here."""

    def __init__(self, root: Path) -> None:
        self.cache, self.staging = root / "cache", root / "staging"
        for directory in (self.cache, self.staging):
            directory.mkdir()
        self.child = subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        caches = [("main", self.cache.as_uri())]
        self.say(Setup(caches, [CACHE_KEY.public], str(self.staging)))

    def say(self, message: Setup | Job) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(encode(message))
        self.child.stdin.flush()

    def pour(
        self, name: str, archive: bytes, *, claimed: bytes, packed: bytes | None = None
    ) -> bool:
        """Have an archive poured that the release claims to be another; tell if it was taken."""
        path, size = handmade.path(name), len(claimed)
        digest = storepath.nar_hash(hashlib.sha256(claimed).digest())
        sigs = [CACHE_KEY.sign_text(keys.fingerprint(path, digest, size, []))]
        (self.cache / "nar").write_bytes(archive if packed is None else packed)
        compression = "none" if packed is None else "zstd"
        self.say(Job(path, digest, size, [], Where("nar", compression, sigs)))
        assert self.child.stdout is not None
        event = read_event(self.child.stdout.readline())
        while isinstance(event, Progress):
            event = read_event(self.child.stdout.readline())
        taken = isinstance(event, Done)
        assert os.listdir(self.staging) == [storepath.basename(path)] * taken, event  # noqa: PTH208
        return taken

    def staged(self, name: str) -> Path:
        return self.staging / storepath.basename(handmade.path(name))

    def end(self) -> None:
        self.child.communicate()
        assert self.child.returncode == 0


@pytest.fixture
def worker() -> Iterator[Worker]:
    with nars.scratch(MEMORY) as scratch:
        made = Worker(scratch)
        yield made
        made.end()


@pytest.mark.timeout(300)
def test_thousands_of_archives_are_poured_as_nix_restores_them(worker: Worker) -> None:
    poured = generated(POURED, nars.SMALL)
    assert len(poured) >= POURED
    for start in range(0, len(poured), POURED_PER_CALL):
        trees = {
            b"%03d" % at: one for at, one in enumerate(poured[start : start + POURED_PER_CALL])
        }
        with nars.scratch(MEMORY) as scratch:
            ours, theirs = scratch / "ours", scratch / "theirs"
            ours.mkdir()
            for name, tree in trees.items():
                archive = nars.encode(tree)
                packed = zstandard.compress(archive) if name[-1] % 2 else None
                assert worker.pour(name.decode(), archive, claimed=archive, packed=packed), tree
                worker.staged(name.decode()).rename(ours / name.decode())
            whole = nars.encode(Directory(trees))
            subprocess.run(["nix-store", "--restore", theirs], input=whole, check=True)
            dumped = subprocess.run(["nix-store", "--dump", ours], capture_output=True, check=True)
            assert dumped.stdout == whole, _culprit(Directory(trees), dumped.stdout, whole)
            assert looks(ours) == looks(theirs)
            assert odd_modes(ours) == []


def looks(top: Path) -> list[tuple[bytes, str]]:
    """Give each node with its kind; `--restore` leaves the rest of the modes to its caller."""
    return sorted(
        (at, "x" if info.st_mode & stat.S_IXUSR else stat.filemode(info.st_mode)[0])
        for at, info in nars.walk(os.fsencode(top))
    )


def odd_modes(top: Path) -> list[tuple[bytes, str]]:
    """List what has not Nix's canonical mode; the tops of trees stay open in staging."""
    canonical = {"-r--r--r--", "-r-xr-xr-x", "dr-xr-xr-x", "lrwxrwxrwx"}
    return [
        (at, mode)
        for at, info in nars.walk(os.fsencode(top))
        if (mode := stat.filemode(info.st_mode)) not in canonical and at.count(b"/") > 1
    ]


@pytest.mark.timeout(300)
def test_thousands_of_spoiled_archives_are_refused_and_leave_nothing(worker: Worker) -> None:
    print(f"seed {(seed := random.randrange(1 << 32))}")  # noqa: T201 shown when the test fails
    chance, refused, taken = random.Random(seed), [], 0
    for at, tree in enumerate(generated(POURED, nars.SMALL)):
        archive = nars.encode(tree)
        mutation = nars.MUTATIONS[at % len(nars.MUTATIONS)]
        spoiled = mutation(archive, chance)
        if at % 3:
            if spoiled != archive:
                assert not worker.pour("spoiled", spoiled, claimed=archive), (mutation, tree)
        elif worker.pour("spoiled", spoiled, claimed=spoiled):  # hash and size are as promised
            place = os.fsencode(worker.staged("spoiled"))
            assert nars.encode(nars.read(place)) == spoiled, (mutation, tree)
            remove(worker.staged("spoiled"))
            taken += 1
        elif len(spoiled) < MOST_BYTES:
            refused.append(spoiled)
    assert 0 < taken < len(refused)
    for spoiled in chance.sample(refused, ASKED):
        assert not nix_gives_back(spoiled), spoiled


def nix_gives_back(archive: bytes) -> bool:
    """Tell whether Nix takes an archive and writes the same again: then it was none to refuse."""
    with nars.scratch(MEMORY) as scratch:
        restore = ["nix-store", "--restore", str(scratch / "theirs")]
        if subprocess.run(restore, input=archive, capture_output=True, check=False).returncode:
            return False
        dump = ["nix-store", "--dump", str(scratch / "theirs")]
        return subprocess.run(dump, capture_output=True, check=True).stdout == archive


@pytest.mark.parametrize(
    "claimed",
    [nars.encode(File()), nars.encode(File(bytes(1 << 20)))],
    ids=["nothing", "a megabyte"],
)
def test_a_bomb_is_read_no_further_than_its_declared_size(worker: Worker, claimed: bytes) -> None:
    pack = zstandard.ZstdCompressor().compressobj()
    head = nars.string(b"nix-archive-1") + nars.strings(b"(", b"type", b"regular", b"contents")
    bomb = pack.compress(head + (1 << 33).to_bytes(8, "little"))
    bomb += b"".join(pack.compress(bytes(1 << 24)) for _ in range(64)) + pack.flush()
    assert len(bomb) < 1 << 20
    assert not worker.pour("bomb", b"", claimed=claimed, packed=bomb)
    assert psutil.Process(worker.child.pid).memory_info().rss < 400 << 20


@pytest.mark.parametrize(("depth", "fits"), [(2_000, True), (5_000, False), (50_000, False)])
def test_depth_is_bounded_by_what_linux_opens(worker: Worker, depth: int, fits: bool) -> None:
    down = nars.strings(b"(", b"type", b"directory", b"entry", b"(", b"name", b"d", b"node")
    up = nars.string(b")") * 2
    deep = nars.string(b"nix-archive-1") + down * depth + nars.node(File()) + up * depth
    assert worker.pour("deep", deep, claimed=deep) == fits
    if fits:
        remove(worker.staged("deep"))
    assert not any(worker.staging.iterdir())


def test_the_number_of_entries_is_bounded_by_the_declared_size_alone(worker: Worker) -> None:
    many = nars.encode(Directory({b"%06d" % at: Link(b"x") for at in range(30_000)}))
    assert worker.pour("many", many, claimed=many)
    assert len(os.listdir(worker.staged("many"))) == 30_000  # noqa: PTH208


@pytest.mark.parametrize(
    "archive",
    [
        nars.encode(File(b"123"))[:-8],
        nars.encode(Directory({b"..": File()})),
        nars.encode(Directory({b"a/b": File()})),
        nars.encode(Directory({b"a": Link(b"..")})).replace(b"symlink", b"hardlnk"),
        nars.string(b"nix-archive-1") + nars.directory(nars.entry(b"b", nars.node(File())) * 2),
    ],
)
def test_what_nix_refuses_is_refused(archive: bytes) -> None:
    with nars.scratch(MEMORY) as scratch:
        target = scratch / "theirs"
        restore = subprocess.run(
            ["nix-store", "--restore", target], input=archive, capture_output=True, check=False
        )
        assert restore.returncode != 0
        with pytest.raises(nar.NarError):
            nar.unpack(nars.reader(archive), os.fsencode(scratch / "ours"), len(archive))
