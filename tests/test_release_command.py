"""`nodeagent release` as it is called."""

import json
from pathlib import Path

import pytest

from nodeagent import cli
from nodeagent.bake.build import Built
from tests.bakery import SYSTEM, Bakery, small


@pytest.fixture
async def baked(tmp_path: Path) -> tuple[Bakery, Built, str]:
    bakery = Bakery(tmp_path / "cache")
    store, root = small(tmp_path / "store")
    return bakery, await bakery.bake(store.part(ds=root)), root


Baked = tuple[Bakery, Built, str]


def test_show_verify_and_diff_print_json(
    baked: Baked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bakery, built, root = baked
    public = tmp_path / "public"
    public.write_text(bakery.key.public)
    named = [built.digest, "--cache", str(bakery.directory), "--output", "json"]
    assert cli.run(["release", "show", *named]) == 0
    assert json.loads(capsys.readouterr().out)["systems"][SYSTEM]["profiles"]["ds"]["root"] == root
    assert cli.run(["release", "verify", *named, "--cache-keys", str(public)]) == 0
    assert json.loads(capsys.readouterr().out)["faults"] == []
    assert cli.run(["release", "diff", built.digest, *named]) == 0
    assert json.loads(capsys.readouterr().out)["systems"][SYSTEM]["fetchPaths"] == 0


def test_verify_exits_with_1_for_a_fault_and_names_it(
    baked: Baked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bakery, built, root = baked
    public = tmp_path / "public"
    public.write_text("")
    named = [built.digest[:20], "--cache", str(bakery.directory), "--cache-keys", str(public)]
    with pytest.raises(SystemExit) as caught:
        cli.run(["release", "verify", *named])
    assert caught.value.code == 1
    assert f"{root}: no valid signature" in capsys.readouterr().out


def test_publish_copies_every_release_and_prints_their_digests(
    baked: Baked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bakery, built, _ = baked
    target = Bakery(tmp_path / "target")
    assert cli.run(["release", "publish", str(bakery.directory), str(target.directory)]) == 0
    assert capsys.readouterr().out == f"{built.digest}\n"
    assert target.visible() == bakery.visible()


def test_a_file_of_keys_that_is_not_there_is_named(
    baked: Baked, capsys: pytest.CaptureFixture[str]
) -> None:
    bakery, built, _ = baked
    named = [built.digest, "--cache", str(bakery.directory), "--cache-keys", "/no/such/file"]
    assert cli.run(["release", "verify", *named]) == 1
    assert "/no/such/file cannot be read" in capsys.readouterr().err
