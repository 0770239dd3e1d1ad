"""Policy: who may have which profiles injected, and what else a fleet decides about admission.

A ConfigMap's `policy.json`; `daemonset/controller/policy.schema.json` is its JSON Schema.
"""

import posixpath
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from nodeagent import model
from nodeagent.errors import NodeAgentError
from nodeagent.model import Document, ProfileName
from nodeagent.names import API_VERSION, POD_PROFILES_DIR, RESERVED_PROFILES, Kind, Reason

MAX_POLICY_BYTES: Final = 1 << 20  # what a ConfigMap can hold
MAX_PROFILES: Final = 8  # of a pod
EVERY_NAMESPACE: Final = "*"
_WEB: Final = re.compile(r"\bhttps?://[^\s\"']*")
_PATH: Final = re.compile(r"(?:^|(?<=[:;,=\s\"']))/[^:;,=\s\"']*")


def _environment_value(value: str) -> str:
    """Refuse paths that are not the same on every architecture and release."""
    if "\0" in value:
        raise ValueError("an environment holds no NUL")
    for path in _PATH.findall(_WEB.sub("", value)):
        if not posixpath.normpath(path).startswith(f"{POD_PROFILES_DIR}/"):
            raise ValueError(f"the path {path} does not lie under {POD_PROFILES_DIR}/")
    return value


def _environment_name(name: str) -> str:
    if name == "PATH":
        raise ValueError("PATH is the image's own; use absolute paths")
    return name


def _not_reserved(name: str) -> str:
    if name in RESERVED_PROFILES:
        raise ValueError(f"{name} is a reserved name")
    return name


EnvironmentName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,255}$"), AfterValidator(_environment_name)
]
EnvironmentValue = Annotated[str, Field(max_length=4096), AfterValidator(_environment_value)]
Namespace = Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|\*)$")]
Profile = Annotated[ProfileName, AfterValidator(_not_reserved)]


class ProfilePolicy(Document):
    """A profile that may be injected: into pods of which namespaces, and with what environment.

    Its environment is set where a container does not; it may override what the kind sets.
    """

    kind: Literal[Kind.ENV, Kind.MODELS] = Kind.ENV
    namespaces: tuple[Namespace, ...] = ()
    environment: Mapping[EnvironmentName, EnvironmentValue] = {}

    def admits(self, namespace: str) -> bool:
        """Tell whether pods of a namespace may have it."""
        return EVERY_NAMESPACE in self.namespaces or namespace in self.namespaces


class Policy(Document):
    """What the fleet decides; without one, nothing is injected.

    `min_eligible` and `min_fraction` say how many of the nodes that a pod can use must be ready.
    `assume_privileged` takes hostPath as admitted in namespaces without a PodSecurity label.
    `store_images` are patterns (`*`, `?`, `[…]`) of images that bring a Nix store of their own.
    """

    api_version: Literal["nodeagent.dev/v1"] = API_VERSION
    kind: Literal["Policy"] = "Policy"
    profiles: Mapping[Profile, ProfilePolicy] = {}
    defaults: Mapping[
        Namespace, Annotated[tuple[Profile, ...], Field(max_length=MAX_PROFILES)]
    ] = {}
    min_eligible: Annotated[int, Field(ge=1)] = 1
    min_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    assume_privileged: bool = False
    schedulers: tuple[str, ...] = ("default-scheduler",)
    store_images: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _defaults_can_be_had(self) -> Self:
        for namespace, profiles in self.defaults.items():
            for name in profiles:
                if name not in self.profiles:
                    raise ValueError(f"defaults.{namespace} names {name}, which is no profile here")
                admitted = namespace == EVERY_NAMESPACE or self.profiles[name].admits(namespace)
                if not admitted:
                    raise ValueError(
                        f"defaults.{namespace} names {name}, which that namespace may not have"
                    )
        return self

    def admits(self, namespace: str) -> bool:
        """Tell whether pods of a namespace may have any profile."""
        return any(profile.admits(namespace) for profile in self.profiles.values())

    def default(self, namespace: str) -> tuple[str, ...]:
        """Give the profiles of pods that name none, each once."""
        default = self.defaults.get(EVERY_NAMESPACE, ())
        return tuple(dict.fromkeys(self.defaults.get(namespace, default)))


_PROFILE: Final = TypeAdapter(Profile)


def can_be_profile(name: str) -> bool:
    """Tell whether a profile can be called so."""
    try:
        _PROFILE.validate_python(name)
    except ValidationError:
        return False
    return True


def parse(data: bytes) -> Policy:
    """Read a policy document; raises PolicyInvalid."""
    if len(data) > MAX_POLICY_BYTES:
        raise _invalid(f"it has {len(data):,} bytes, more than {MAX_POLICY_BYTES:,}")
    try:
        return Policy.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise _invalid(model.explain(error)) from None


def schema() -> dict[str, Any]:
    """Give the JSON Schema of the document; what relates two fields is checked by `parse` alone."""
    described = _closed(Policy.model_json_schema(by_alias=True))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described}


def _closed(part: dict[str, Any]) -> dict[str, Any]:
    """Refuse keys that no pattern admits, as `parse` does, and drop titles that repeat names."""
    kept: dict[str, Any] = {
        key: _closed(value) if isinstance(value, dict) else value
        for key, value in part.items()
        if not (key == "title" and isinstance(value, str))
    }
    return {**kept, "additionalProperties": False} if "patternProperties" in kept else kept


def _invalid(cause: str) -> NodeAgentError:
    return NodeAgentError(
        Reason.POLICY_INVALID,
        f"the policy cannot be read: {cause}; see daemonset/controller/policy.schema.json",
    )
