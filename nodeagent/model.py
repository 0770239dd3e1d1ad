"""How every JSON document of ours is read: frozen, camelCase, nothing unknown, no coercion."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from nodeagent import storepath


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC).replace(microsecond=0)
    except OverflowError:
        raise ValueError("no moment of the calendar in UTC") from None


Moment = Annotated[AwareDatetime, AfterValidator(_utc), PlainSerializer(_rfc3339, when_used="json")]
StorePath = Annotated[str, Field(pattern=storepath.PATTERN)]
NarHash = Annotated[str, Field(pattern=storepath.HASH_PATTERN)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
ProfileName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
Size = Annotated[int, Field(ge=0, lt=1 << 63)]

EXPLAINED_LETTERS: Final = 300  # keys of a foreign document may be long
_UNSHOWN: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


class Document(BaseModel):
    """Base of what is exchanged as JSON."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
    )


class Kept(Document, extra="allow"):
    """Base of what an agent writes for the next one: what a newer one has added stays in it."""


def explain(error: ValidationError) -> str:
    """Say in one line where a document is wrong first, and how many more faults it has."""
    faults = error.errors(include_url=False, include_input=False)
    first = faults[0]
    place = ".".join(str(part) for part in first["loc"]) or "document"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    text = _UNSHOWN.sub(" ", f"{place}: {first['msg']}")
    return f"{text[:EXPLAINED_LETTERS]}{more}"
