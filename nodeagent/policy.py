"""Policy: who may have which profiles injected, and what else a fleet decides about admission.

A ConfigMap's `policy.json`; `daemonset/controller/policy.schema.json` is its JSON Schema.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from nodeagent import model
from nodeagent.errors import NodeAgentError
from nodeagent.model import Document, ProfileName
from nodeagent.names import API_VERSION, POD_PROFILES_DIR, RESERVED_PROFILES, Kind, Reason

MAX_POLICY_BYTES: Final = 1 << 20  # what a ConfigMap can hold
EVERY_NAMESPACE: Final = "*"


def _environment_value(value: str) -> str:
    for part in value.split(":"):
        if part.startswith("/") and not part.startswith(f"{POD_PROFILES_DIR}/"):
            raise ValueError(f"the path {part} does not lie under {POD_PROFILES_DIR}/")
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
    """A profile that may be injected: into pods of which namespaces, and with what environment."""

    kind: Literal[Kind.ENV, Kind.MODELS] = Kind.ENV
    namespaces: tuple[Namespace, ...] = ()
    environment: Mapping[EnvironmentName, EnvironmentValue] = {}

    def admits(self, namespace: str) -> bool:
        """Tell whether pods of a namespace may have it."""
        return EVERY_NAMESPACE in self.namespaces or namespace in self.namespaces


class Policy(Document):
    """What the fleet decides; without one, nothing is injected."""

    api_version: Literal["nodeagent.dev/v1"] = API_VERSION
    kind: Literal["Policy"] = "Policy"
    profiles: Mapping[Profile, ProfilePolicy] = {}
    defaults: Mapping[Namespace, Annotated[tuple[Profile, ...], Field(max_length=8)]] = {}
    min_eligible: Annotated[int, Field(ge=1)] = 1
    min_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    assume_privileged: bool = False
    schedulers: tuple[str, ...] = ("default-scheduler",)
    store_images: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _defaults_are_known(self) -> Self:
        for namespace, profiles in self.defaults.items():
            for name in profiles:
                if name not in self.profiles:
                    raise ValueError(f"defaults.{namespace} names {name}, which is no profile here")
        return self

    def admits(self, namespace: str) -> bool:
        """Tell whether pods of a namespace may have any profile."""
        return any(profile.admits(namespace) for profile in self.profiles.values())


def parse(data: bytes) -> Policy:
    """Read a policy document; raises PolicyInvalid."""
    if len(data) > MAX_POLICY_BYTES:
        raise NodeAgentError(
            Reason.POLICY_INVALID, f"the policy is larger than {MAX_POLICY_BYTES} bytes"
        )
    try:
        return Policy.model_validate_json(data)
    except ValidationError as error:
        raise NodeAgentError(Reason.POLICY_INVALID, model.explain(error)) from None
