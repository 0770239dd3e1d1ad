"""How caches are reached: credentials, trust, proxies and patience. Sent to workers as it is."""

import netrc
import os
import ssl
from dataclasses import dataclass
from typing import Final

from nodeagent.errors import NodeAgentError
from nodeagent.names import Reason

CONNECT_SECONDS: Final = 5.0
STALL_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Access:
    """The settings that all caches share.

    `connect_seconds` bounds connecting and, apart from it, the TLS handshake; `stall_seconds`
    the wait for the first byte and, later, the time in which too little comes. At most
    `bytes_per_second` are read, as far as it is not 0.
    """

    netrc: str | None = None
    ca_file: str | None = None
    connect_seconds: float = CONNECT_SECONDS
    stall_seconds: float = STALL_SECONDS
    bytes_per_second: float = 0.0

    def trust(self) -> ssl.SSLContext:
        """Trust what the system trusts, and the private CA; raises SettingInvalid."""
        context = ssl.create_default_context()
        try:
            if self.ca_file is not None:
                context.load_verify_locations(self.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise _unusable("--ca-file", self.ca_file, error.strerror or "no PEM") from None
        return context

    def require_usable(self) -> None:
        """Refuse unusable files at the start, not in each worker; raises SettingInvalid."""
        self.trust()
        Netrc(self.netrc).of("")


class Netrc:
    """Credentials by host from a file in netrc syntax, read anew when it changes.

    The `default` entry is passed over: a password goes to the host that it is for, no other.
    """

    def __init__(self, file: str | None) -> None:
        self._file = file
        self._version: tuple[int, ...] = ()
        self._hosts: dict[str, tuple[str, str, str]] = {}

    def of(self, host: str) -> str | None:
        """Give `user:password` for a host; raises SettingInvalid if the file cannot be read."""
        if self._file is None:
            return None
        try:
            self._refresh(self._file)
        except (OSError, UnicodeDecodeError) as error:
            cause = getattr(error, "strerror", None) or "no text"
            raise _unusable("--netrc", self._file, cause) from None
        except netrc.NetrcParseError as error:
            # Its own message may quote a password.
            raise _unusable("--netrc", self._file, f"line {error.lineno} is no netrc") from None
        user, account, password = self._hosts.get(host, ("", "", ""))
        return f"{user or account}:{password}" if password else None

    def _refresh(self, file: str) -> None:
        found = os.stat(file)  # noqa: PTH116 the path is a plain string in the worker's setup
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        if version != self._version:
            self._hosts = netrc.netrc(file).hosts
            self._hosts.pop("default", None)
            self._version = version


def _unusable(flag: str, file: str | None, cause: str) -> NodeAgentError:
    return NodeAgentError(
        Reason.SETTING_INVALID, f"{flag} {file} cannot be used: {cause}; mend or unset it"
    )
