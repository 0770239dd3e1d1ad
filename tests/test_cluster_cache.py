"""What the test cluster keeps between runs is made once, and whole or absent."""

import os
import threading
from pathlib import Path

import pytest

from integration.cluster import ClusterError, cache


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache.directory()


def write(into: Path) -> None:
    (into / "file").write_text("whole")


def fail(into: Path) -> None:
    write(into)
    raise ClusterError("no")


def test_a_name_is_made_once() -> None:
    first = cache.made("thing-1", write, keep=1)
    assert cache.made("thing-1", fail, keep=1) == first
    assert (first / "file").read_text() == "whole"


def test_two_who_need_the_same_at_once_make_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    other_waits = threading.Event()
    monkeypatch.setattr(cache, "say", lambda text: other_waits.set())
    made = []

    def slowly(into: Path) -> None:
        made.append(into)
        assert other_waits.wait(30)
        write(into)

    both = [
        threading.Thread(target=cache.made, args=("thing-1", slowly), kwargs={"keep": 1})
        for _ in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert len(made) == 1
    assert other_waits.is_set()


def test_a_failure_leaves_nothing_and_may_be_tried_again(home: Path) -> None:
    with pytest.raises(ClusterError):
        cache.made("thing-1", fail, keep=1)
    assert not list(home.glob("*thing*"))
    assert cache.made("thing-1", write, keep=1).exists()


def test_what_a_killed_process_half_made_goes_away(home: Path) -> None:
    (home / ".thing-0").mkdir()
    (home / ".thing-1").mkdir()
    (home / ".thing-1/half").touch()
    made = cache.made("thing-1", write, keep=1)
    assert [path.name for path in made.iterdir()] == ["file"]
    assert not list(home.glob(".thing*"))


def test_those_used_last_are_kept_and_others_are_left_alone(home: Path) -> None:
    cache.made("other-1", write, keep=1)
    for age, name in enumerate(("thing-1", "thing-2", "thing-3")):
        os.utime(cache.made(name, write, keep=3), (age, age))
    cache.made("thing-1", write, keep=3)
    cache.made("thing-4", write, keep=2)
    assert sorted(path.name for path in home.glob("*-*")) == ["other-1", "thing-1", "thing-4"]


def test_a_key_follows_every_file_and_text(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    file = tmp_path / "tree/file"
    keys = set()
    for content in ("a", "b"):
        file.write_text(content)
        keys |= {cache.key([tmp_path / "tree"]), cache.key([tmp_path / "tree"], "more")}
    file.rename(tmp_path / "tree/renamed")
    keys.add(cache.key([tmp_path / "tree"]))
    assert len(keys) == 5


def test_who_waits_in_vain_for_a_lock_is_told_who_holds_it(home: Path) -> None:
    lock, other = cache.Lock(home / "lock"), cache.Lock(home / "lock")
    with lock.held(0):
        with pytest.raises(ClusterError, match=f"lock: process {os.getpid()} holds it"):
            other.acquire(0)
        assert not other.is_held
    with other.held(0), pytest.raises(ClusterError, match="we hold it already"):
        other.acquire(0)
