"""Up and back: what agents of two versions make of each other's state and store."""

import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import hypothesis
import pytest
from hypothesis import strategies as st

from nodeagent import __version__, cli, ledger, release
from nodeagent.errors import NodeAgentError
from nodeagent.ledger import ChannelMemory, Held, Ledger, State
from nodeagent.names import Reason
from nodeagent.select import Wanted
from nodeagent.store import StoreFiles
from tests.handmade import NOW, digest, record, seal
from tests.loops import finish

Tree = dict[str, Any]
HELD: Final = Held(channel="stable", serial=7, release=digest(7), caches=("main",))
MODELS: Final = (State, ChannelMemory, Held)
KNOWN: Final = {
    name for one in MODELS for key, field in one.model_fields.items() for name in (key, field.alias)
}
VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.text() | st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
INVENTIONS: Final = st.dictionaries(st.text().filter(lambda key: key not in KNOWN), VALUES)


def state(top: Tree, channel: Tree | None = None, held: Tree | None = None) -> Tree:
    """Give a state as a newer agent may leave it: with fields that this one does not know."""
    memory = ChannelMemory(floor=5, accepted=(seal(7),)).model_dump(mode="json", by_alias=True)
    since = HELD.model_copy(update={"since": NOW})
    published = since.model_dump(mode="json", by_alias=True)
    return {
        "version": 1,
        "channels": {"stable": {**memory, **(channel or {})}},
        "held": {**published, **(held or {})},
        **top,
    }


def write(directory: Path, content: object) -> None:
    (directory / "state.json").write_text(json.dumps(content))


def read(directory: Path) -> Tree:
    content: Tree = json.loads((directory / "state.json").read_bytes())
    return content


def never() -> None:
    pytest.fail("there is nobody to wait for")


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Ledger]:
    made = Ledger(directory)
    async with made.owned(never):
        yield made


async def refusal(directory: Path, content: bytes) -> str:
    """Check that a state is refused and left as it is; give the sentence."""
    (directory / "state.json").write_bytes(content)
    with pytest.raises(NodeAgentError) as caught:
        async with opened(directory):
            pytest.fail("it was read")
    assert caught.value.reason is Reason.STORE_UNUSABLE
    assert (directory / "state.json").read_bytes() == content
    return caught.value.message


FLOORS: Final = {"stable": {"floor": 5, "new": 1}, "canary": {"floor": 9}}
SERIAL: Final = "the serial of the record that the node has published"


@pytest.mark.parametrize(
    ("more", "number"),
    [
        ({}, "0"),
        ({"invention": 1}, "0"),
        ({"channels": FLOORS}, "9"),
        ({"channels": []}, SERIAL),
        ({"channels": {"stable": {"floor": "five"}}}, SERIAL),
    ],
)
async def test_a_newer_state_is_left_alone_with_what_to_do(
    tmp_path: Path, more: Tree, number: str
) -> None:
    said = await refusal(tmp_path, json.dumps({"version": 2, **more}).encode())
    assert said == (
        f"{tmp_path}/state.json has version 2, this nodeagent {__version__} knows 1: upgrade "
        f"again, or move the file away and set --min-serial to {number}; nothing on the node "
        "was changed"
    )


BROKEN: Final = {
    "empty": b"",
    "cut off": b'{"version": 1',
    "no object": b"[]",
    "no number": b'{"version": "new"}',
    "no version": b'{"version": 0}',
    "another type": b'{"version": 1, "channels": []}',
    "another type below": b'{"version": 1, "channels": {"stable": {"floor": "five"}}}',
    "no text": b"\xff",
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_state_is_left_alone_with_advice(tmp_path: Path, case: str) -> None:
    said = await refusal(tmp_path, BROKEN[case])
    assert said.startswith(f"{tmp_path}/state.json cannot be read: ")
    assert said.endswith("; move it away to start afresh (then set --min-serial)")


def within(content: Mapping[str, object], extras: Tree) -> bool:
    return {key: content[key] for key in extras if key in content} == extras


@hypothesis.given(top=INVENTIONS, channel=INVENTIONS, held=INVENTIONS)
def test_what_a_newer_agent_has_added_is_kept_by_whatever_is_written(
    top: Tree, channel: Tree, held: Tree
) -> None:
    async def use(directory: Path) -> None:
        before = state(top, channel, held)
        write(directory, before)
        async with opened(directory) as book:
            book.scrubbed("boot-1", 1234)
            unset: Tree = {"verifiedBoot": None, "cleanEnd": None, "damaged": {}}
            unset |= {"history": {"generations": {}}, "spoilt": {}}
            scrubbed = {"scrubbedBoot": "boot-1", "scrubbedAt": 1234}
            assert read(directory) == {**before, **unset, **scrubbed}
            book.accept(Wanted(record(8), seal(8), ("main",), 6))
            book.publish(HELD, "boot-1", NOW)
            book.begin("boot-2")
            book.end("boot-2")
            book.condemn({"/nix/store/a": "flipped"})
            book.spoil("/nix/store/a", 1234)
        after = read(directory)
        assert within(after, top)
        assert within(after["channels"]["stable"], channel)
        assert within(after["held"], held)
        assert (after["channels"]["stable"]["floor"], after["verifiedBoot"]) == (6, "boot-1")

    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:  # it syncs each time
        finish(use(Path(place)))


async def test_what_a_newer_agent_noted_of_a_release_goes_with_the_release(tmp_path: Path) -> None:
    write(tmp_path, state({"kept": 1}, held={"invention": "Thursday"}))
    async with opened(tmp_path) as book:
        book.publish(HELD.model_copy(update={"serial": 8, "release": digest(8)}), "boot-1", NOW)
    assert "invention" not in read(tmp_path)["held"]
    assert read(tmp_path)["kept"] == 1


async def test_no_news_is_not_written_over_what_a_newer_agent_added(tmp_path: Path) -> None:
    write(tmp_path, state({"verifiedBoot": "boot-1"}, {"a": 1}, {"b": 2}))
    async with opened(tmp_path) as book:
        (tmp_path / "state.json").unlink()
        book.publish(HELD, "boot-1", NOW)
        book.accept(Wanted(record(7), seal(7), ("main",), 5))
    assert not (tmp_path / "state.json").exists()


async def test_a_state_gets_the_version_of_whoever_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, state({}))
    with monkeypatch.context() as newer:
        newer.setattr(ledger, "VERSION", 2)
        async with opened(tmp_path) as book:
            assert read(tmp_path)["version"] == 1
            book.end("boot-1")
            book.scrubbed("boot-1", 1234)
        assert read(tmp_path)["version"] == 2
    content = (tmp_path / "state.json").read_bytes()
    assert "has version 2" in await refusal(tmp_path, content)


async def test_a_boot_in_which_gates_were_opened_is_known_without_the_state(tmp_path: Path) -> None:
    async with opened(tmp_path) as book:
        assert book.state.verified_boot is None
        book.publish(HELD, "boot-1", NOW)
    for _ in range(2):  # an agent that ends before it publishes does not forget it
        (tmp_path / "state.json").unlink(missing_ok=True)
        async with opened(tmp_path) as book:
            assert book.state == State(verified_boot="boot-1")
    async with opened(tmp_path) as book:
        book.publish(HELD, "boot-2", NOW)
    (tmp_path / "state.json").unlink()
    async with opened(tmp_path) as book:
        assert book.state.verified_boot == "boot-2"


async def test_manifests_stay_while_a_record_of_a_newer_agent_is_remembered(tmp_path: Path) -> None:
    made = json.loads(seal(9).payload) | {"invention": True}
    newer = seal(9).model_copy(update={"payload": json.dumps(made).encode()})
    with pytest.raises(NodeAgentError):
        newer.peek()
    memory = ChannelMemory(accepted=(newer,)).model_dump(mode="json", by_alias=True)
    write(tmp_path, {"version": 1, "channels": {"stable": memory}})
    async with opened(tmp_path) as book:
        nine = release.digest_of(b"nine")
        book.keep_manifest(digest(7), b"")
        book.keep_manifest(nine, b"nine")
        book.publish(HELD, "boot-1", NOW)
        assert book.manifest(nine) == b"nine"
        assert book.accepted("stable", 0).identities == {newer.identity}
    assert (tmp_path / release.manifest_file(nine)).exists()
    assert read(tmp_path)["held"]["serial"] == 7


@pytest.mark.parametrize("argv", [["--version"], ["--version", "serve", "/nowhere"]])
def test_the_version_is_told_in_one_line(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(argv) == 0
    assert capsys.readouterr().out == f"nodeagent {__version__}\n"


@pytest.fixture
def marker(scratch: Path) -> Path:
    files = StoreFiles(scratch)
    files.claim(share=False)
    return files.ours / "owner"


def test_a_store_is_marked_with_its_layout(marker: Path) -> None:
    assert marker.read_text() == "1\n"


@pytest.mark.parametrize("mark", ["", "1\n"])
def test_a_known_layout_is_taken_and_its_mark_left_alone(
    scratch: Path, marker: Path, mark: str
) -> None:
    marker.write_text(mark)
    StoreFiles(scratch).claim(share=False)
    assert marker.read_text() == mark


@pytest.mark.parametrize("mark", ["2\n", "mine", "\xff\xff"])
def test_another_layout_is_left_alone_with_what_to_do(
    scratch: Path, marker: Path, mark: str
) -> None:
    marker.write_text(mark, encoding="latin-1")
    part = scratch / "nix/var/nodeagent/staging/left.part"
    part.touch()
    with pytest.raises(NodeAgentError, match="knows 1: upgrade again, or give another") as caught:
        StoreFiles(scratch).claim(share=True)
    assert caught.value.reason is Reason.STORE_UNUSABLE
    assert part.exists()
    assert marker.read_text(encoding="latin-1") == mark
