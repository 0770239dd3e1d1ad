"""What we and our worker processes say to each other: plain dataclasses as JSON lines.

No models: a worker must start fast and stay small, and both ends are ours.
"""

import json
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Message = TypeVar("Message")


def encode(message: "DataclassInstance") -> bytes:
    """Write one line that says which message it is."""
    fields = {"is": type(message).__name__, **vars(message)}
    return json.dumps(fields, default=vars).encode() + b"\n"


def decode(line: bytes, *kinds: type[Message]) -> Message:
    """Read a line that holds one of these messages; the fields of theirs are plain."""
    data = json.loads(line)
    name = data.pop("is")
    return next(kind for kind in kinds if kind.__name__ == name)(**data)
