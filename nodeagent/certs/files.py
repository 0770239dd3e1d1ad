"""Certificates that somebody else makes, cert-manager for instance: read again when they change."""

import asyncio
import ssl
from pathlib import Path
from typing import Final

from nodeagent import log
from nodeagent.certs import x509
from nodeagent.certs.serving import Serving
from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

LOOK_SECONDS: Final = 30.0


class FileCertificates(Serving):
    """Serve with a certificate chain and a key in two PEM files."""

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__()
        self.problem: NodeAgentError | None = None
        self._files = certificate, key
        self._loaded: tuple[str, str] | None = None

    async def run(self) -> None:
        """Look at the files now and then, until cancelled; what was good stays until then."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Load what has changed."""
        certificate, key = self._files
        try:
            texts = certificate.read_text(), key.read_text()
            if texts == self._loaded:
                return
            expires = x509.expiry(texts[0])
            self.load(*texts)
        except (OSError, ValueError, ssl.SSLError) as error:
            self._tell(error)
            return
        self.expires["leaf"] = expires
        self._loaded, self.problem = texts, None
        log.get().info("certificate loaded", file=str(certificate), expires=expires)

    def _tell(self, error: Exception) -> None:
        cause = " ".join(f"{error}".split()) or type(error).__name__
        problem = NodeAgentError(
            Reason.SETTING_INVALID,
            f"the certificate {self._files[0]} with the key {self._files[1]} cannot be used: "
            f"{cause}; see --tls-cert and --tls-key, or the Secret that is mounted there",
        )
        if self.problem is None or self.problem.message != problem.message:
            log.get().warning("certificate unusable", message=problem.message)
        self.problem = problem
