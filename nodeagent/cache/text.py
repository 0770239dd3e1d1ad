"""What may be said of an address aloud."""

import re
from typing import Final

_CREDENTIALS: Final = re.compile(r"//[^/?#\s]*@")


def bare(text: str) -> str:
    """Take the credentials out of every address in a text."""
    return _CREDENTIALS.sub("//", text)
