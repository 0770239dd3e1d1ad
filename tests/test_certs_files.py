"""Certificates that others make: taken up when they change, kept while there are none better."""

import asyncio
import ssl
from pathlib import Path
from typing import Final

import pytest
import trustme

from nodeagent.certs import FileCertificates
from nodeagent.certs.files import LOOK_SECONDS
from nodeagent.names import Reason
from tests.certifying import HOST, trusted_certificate

OURS: Final = trustme.CA()
THEIRS: Final = trustme.CA()


def bundle(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


def write(
    directory: Path, authority: trustme.CA, kind: trustme.KeyType = trustme.KeyType.ECDSA
) -> FileCertificates:
    made = authority.issue_cert(HOST, key_type=kind)
    (directory / "tls.crt").write_bytes(b"".join(one.bytes() for one in made.cert_chain_pems))
    (directory / "tls.key").write_bytes(made.private_key_pem.bytes())
    return FileCertificates(directory / "tls.crt", directory / "tls.key")


def test_files_are_served_and_their_end_is_told(tmp_path: Path) -> None:
    files = write(tmp_path, OURS)
    files.look()
    assert files.ready.is_set()
    assert files.problem is None
    trusted_certificate(files.context, bundle(OURS))
    assert files.expires.keys() == {"leaf"}


@pytest.mark.looptime
async def test_files_that_change_are_taken_up(tmp_path: Path) -> None:
    files = write(tmp_path, OURS)
    task = asyncio.create_task(files.run())
    await files.ready.wait()
    first = files.context.sni_callback
    await asyncio.sleep(LOOK_SECONDS)
    assert files.context.sni_callback is first, "what has not changed is not loaded again"
    write(tmp_path, THEIRS)
    trusted_certificate(files.context, bundle(OURS))
    await asyncio.sleep(LOOK_SECONDS)
    trusted_certificate(files.context, bundle(THEIRS))
    with pytest.raises(ssl.SSLCertVerificationError):
        trusted_certificate(files.context, bundle(OURS))
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("kinds", [list(trustme.KeyType), list(trustme.KeyType)[::-1]])
def test_a_key_of_another_kind_leaves_nothing_of_the_one_before(
    tmp_path: Path, kinds: list[trustme.KeyType]
) -> None:
    files = write(tmp_path, THEIRS, kinds[0])
    files.look()
    write(tmp_path, OURS, kinds[1])
    files.look()
    trusted_certificate(files.context, bundle(OURS))
    trusted_certificate(files.context, bundle(OURS), host=None)


@pytest.mark.parametrize("spoil", ["gone", "empty", "garbage", "binary", "key of another"])
def test_files_that_cannot_be_used_are_told_and_what_was_good_stays(
    tmp_path: Path, spoil: str
) -> None:
    files = write(tmp_path, OURS)
    files.look()
    expires = dict(files.expires)
    match spoil:
        case "gone":
            (tmp_path / "tls.crt").unlink()
        case "empty":
            (tmp_path / "tls.crt").write_text("")
        case "garbage":
            (tmp_path / "tls.key").write_text("no key")
        case "binary":
            (tmp_path / "tls.crt").write_bytes(b"\xff\x00")
        case _:
            key = (tmp_path / "tls.key").read_text()
            write(tmp_path, OURS)
            (tmp_path / "tls.key").write_text(key)
    files.look()
    assert files.problem is not None
    assert files.problem.reason is Reason.SETTING_INVALID
    assert str(tmp_path / "tls.crt") in files.problem.message
    trusted_certificate(files.context, bundle(OURS))
    assert files.expires == expires
    write(tmp_path, OURS)
    files.look()
    assert files.problem is None


def test_without_files_there_is_no_certificate(tmp_path: Path) -> None:
    files = FileCertificates(tmp_path / "tls.crt", tmp_path / "tls.key")
    files.look()
    assert not files.ready.is_set()
    assert files.problem is not None
