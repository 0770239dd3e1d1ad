"""The TLS context of the webhook's server: certificates are exchanged while it serves."""

import asyncio
import ssl
import tempfile
from pathlib import Path


class Serving:
    """A context, whether it has a certificate, and when what it trusts in ends.

    `expires` gives unix seconds by what ends: `leaf`, and `authority` where that is ours.
    """

    def __init__(self) -> None:
        self.context = _context()
        self.ready = asyncio.Event()
        self.expires: dict[str, float] = {}

    def load(self, chain: str, key: str) -> None:
        """Serve with this from the next connection on; raises ssl.SSLError, then as before."""
        # A context of its own: one that refuses a pair is spoilt, and one that takes a pair keeps
        # the last of every other kind of key.
        loaded = _context()
        with (
            tempfile.TemporaryDirectory() as scratch
        ):  # of mode 0700; the library reads files alone
            files = Path(scratch) / "tls.crt", Path(scratch) / "tls.key"
            for file, text in zip(files, (chain, key), strict=True):
                file.write_text(text)
            loaded.load_cert_chain(*files)

        def choose(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
            connection.context = loaded

        self.context.sni_callback = choose  # also for clients that name no server
        self.ready.set()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
