import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import narinfo
from nodeagent.narinfo import NarInfo
from nodeagent.storepath import ALPHABET, nar_hash

# Written by Nix 2.8: `nix copy --to 'file://…?compression=none'`.
RECORDED = """\
StorePath: /nix/store/vzhaz6vc790gljk97mcvilqzah3rw0zg-with-refs
URL: nar/1k5i622m2c8n1gxraa82fs244p9a5l3k1sd8n1wb0nd5q9jqyrcj.nar
Compression: none
FileHash: sha256:1k5i622m2c8n1gxraa82fs244p9a5l3k1sd8n1wb0nd5q9jqyrcj
FileSize: 216
NarHash: sha256:1k5i622m2c8n1gxraa82fs244p9a5l3k1sd8n1wb0nd5q9jqyrcj
NarSize: 216
References: 6jnlzxydkw0jj6hpfpbby504744npsja-aa dqqmd8dv4zyl6g6qawbvqsr2y9jambjj-bb
Deriver: 2gs8k559z4rlahfx0y688s49m2vvszyl-with-refs.drv
Sig: test-cache-1:UFrfcXDBW62KwZnoiybt/V5XILjeix1GSd28z/Pb069jXKFJAMbt7aYwS9LUCXIEdGq9W5au/mtSMg==
CA: text:sha256:1dg7fnfj97lrgwhsyd87wg9axmkskiqsv66zlan68c7y17yp7n41
"""

LETTERS = st.text(ALPHABET, min_size=32, max_size=32)
PATHS = st.builds(
    "/nix/store/{}-{}".format,
    LETTERS,
    st.from_regex(r"[a-zA-Z0-9+_?=-][a-z.]{0,9}", fullmatch=True),
)
HASHES = st.binary(min_size=32, max_size=32).map(nar_hash)
SIZES = st.integers(0, (1 << 63) - 1)
VALUES = st.text(min_size=1, max_size=20).filter(lambda text: "\n" not in text)
INFOS = st.builds(
    NarInfo,
    path=PATHS,
    url=VALUES,
    compression=VALUES,
    nar_hash=HASHES,
    nar_size=SIZES,
    references=st.lists(PATHS, unique=True, max_size=5).map(sorted).map(tuple),
    file_hash=st.none() | HASHES,
    file_size=st.none() | SIZES,
    deriver=st.none() | PATHS,
    ca=st.none() | VALUES,
    sigs=st.lists(VALUES, max_size=3).map(tuple),
)


def without(key: str) -> str:
    return "".join(
        line for line in RECORDED.splitlines(keepends=True) if not line.startswith(f"{key}:")
    )


@given(INFOS)
def test_what_is_rendered_is_read_back(info: NarInfo) -> None:
    assert narinfo.parse(narinfo.render(info)) == info


def test_what_nix_wrote_is_read_and_written_again_to_the_byte() -> None:
    info = narinfo.parse(RECORDED)
    assert info.references == (
        "/nix/store/6jnlzxydkw0jj6hpfpbby504744npsja-aa",
        "/nix/store/dqqmd8dv4zyl6g6qawbvqsr2y9jambjj-bb",
    )
    assert info.deriver == "/nix/store/2gs8k559z4rlahfx0y688s49m2vvszyl-with-refs.drv"
    assert narinfo.render(info) == RECORDED


def test_references_are_written_in_order_whatever_theirs() -> None:
    info = narinfo.parse(RECORDED)
    shuffled = dataclasses.replace(info, references=info.references[::-1])
    assert narinfo.render(shuffled) == RECORDED


@given(INFOS, st.lists(VALUES, max_size=4), st.data())
def test_unknown_keys_are_passed_over(
    info: NarInfo, values: list[str], data: st.DataObject
) -> None:
    lines = narinfo.render(info).split("\n")[:-1]
    for value in values:
        lines.insert(data.draw(st.integers(0, len(lines))), f"X-Unknown: {value}")
    assert narinfo.parse("\n".join(lines)) == info


@given(INFOS)
def test_the_order_of_lines_does_not_matter(info: NarInfo) -> None:
    info = dataclasses.replace(info, sigs=info.sigs[:1])
    lines = narinfo.render(info).split("\n")[:-1]
    assert narinfo.parse("\n".join(reversed(lines))) == info


@given(st.text(max_size=200))
def test_noise_is_a_value_error(noise: str) -> None:
    with pytest.raises(ValueError, match=r"missing|without a colon"):
        narinfo.parse(noise)


@pytest.mark.parametrize("key", ["StorePath", "URL", "NarHash", "NarSize"])
def test_a_missing_line_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        narinfo.parse(without(key))


@pytest.mark.parametrize("key", ["FileHash", "FileSize", "References", "Deriver", "Sig", "CA"])
def test_what_nix_may_leave_out_may_be_missing(key: str) -> None:
    assert narinfo.parse(without(key)).path == narinfo.parse(RECORDED).path


def test_without_a_compression_it_is_bzip2_as_in_nix() -> None:
    assert narinfo.parse(without("Compression")).compression == "bzip2"
    assert narinfo.parse(without("Compression") + "Compression: \n").compression == "bzip2"


def test_an_unknown_deriver_is_none() -> None:
    assert narinfo.parse(without("Deriver") + "Deriver: unknown-deriver\n").deriver is None
    assert narinfo.parse(without("Deriver") + "Deriver: \n").deriver is None


def test_a_colon_needs_no_blank() -> None:
    assert narinfo.parse(without("References") + "References:\n").references == ()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("StorePath: /etc/passwd", "StorePath"),
        ("StorePath: /nix/store/../../etc", "StorePath"),
        ("StorePath: vzhaz6vc790gljk97mcvilqzah3rw0zg-with-refs", "StorePath"),
        ("URL: ", "URL"),
        ("NarHash: sha256:ba7816bf8f01cfea", "NarHash"),
        *((f"NarSize: {size}", "NarSize") for size in ("-1", "1.5", "", "0x10", "٣", "1" * 20)),
        ("FileSize: many", "FileSize"),
        ("References: ../../../etc/passwd", "not a store path"),
        ("References: /nix/store/6jnlzxydkw0jj6hpfpbby504744npsja-aa", "not a store path"),
        ("Deriver: x.drv", "not a store path"),
    ],
)
def test_a_malformed_value_is_named(line: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        narinfo.parse(without(line.partition(":")[0]) + line + "\n")


@pytest.mark.parametrize("key", ["StorePath", "URL", "NarHash", "NarSize", "References", "CA"])
def test_two_values_of_one_key_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} stands twice"):
        narinfo.parse(f"{RECORDED}{key}: other\n")


def test_a_line_without_a_colon_is_refused_and_shown_in_part() -> None:
    with pytest.raises(ValueError, match="line without a colon") as refusal:
        narinfo.parse(RECORDED + "x" * 100_000)
    assert len(str(refusal.value)) < 200
