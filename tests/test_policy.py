"""Policy is read strictly, its schema is published, and what cannot work is refused at once."""

import json
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped] # carries no types
import pytest

from nodeagent import policy
from nodeagent.errors import NodeAgentError
from nodeagent.names import Kind, Reason
from nodeagent.policy import Policy
from tests.reviews import POLICY, Tree, policed

SCHEMA: Final = Path(__file__).parents[1] / "daemonset/controller/policy.schema.json"
PROFILE: Final = {"namespaces": ["a"]}


def refusal(document: object) -> str:
    with pytest.raises(NodeAgentError) as caught:
        policy.parse(document if isinstance(document, bytes) else json.dumps(document).encode())
    assert caught.value.reason is Reason.POLICY_INVALID
    assert "see daemonset/controller/policy.schema.json" in caught.value.message
    return caught.value.message


def test_its_schema_is_the_published_one() -> None:
    expected = json.dumps(policy.schema(), indent=2) + "\n"
    assert SCHEMA.read_text() == expected, (
        "write it anew: .venv/bin/python -c 'import json; from nodeagent import policy; "
        f"print(json.dumps(policy.schema(), indent=2))' > {SCHEMA.name}"
    )


def test_an_empty_policy_gives_nothing_to_nobody() -> None:
    empty = policy.parse(b"{}")
    assert empty == Policy()
    assert not empty.admits("a")
    assert empty.default("a") == ()
    assert (empty.min_eligible, empty.min_fraction, empty.assume_privileged) == (1, 0.5, False)
    assert empty.schedulers == ("default-scheduler",)


def test_a_profile_is_for_the_namespaces_that_it_lists() -> None:
    told = policed(profiles={"ds": {"namespaces": ["a", "b"]}, "hf": {"namespaces": ["*"]}})
    assert [told.profiles["ds"].admits(one) for one in ("a", "b", "c")] == [True, True, False]
    assert told.profiles["hf"].admits("c")
    assert told.profiles["ds"].kind is Kind.ENV


def test_a_default_is_the_namespaces_own_or_that_of_all() -> None:
    profiles = {"ds": {"namespaces": ["a"]}, "hf": {"namespaces": ["*"]}}
    told = policed(profiles=profiles, defaults={"a": ["hf", "ds", "hf"], "*": ["hf"]})
    assert told.default("a") == ("hf", "ds")
    assert told.default("b") == ("hf",)


UNSEEMLY: Final[dict[str, tuple[Tree, str]]] = {
    "an unknown field": ({"profile": {}}, "profile"),
    "another version": ({"apiVersion": "nodeagent.dev/v2"}, "apiVersion"),
    "another kind": ({"kind": "Pins"}, "kind"),
    "no node at all": ({"minEligible": 0}, "minEligible"),
    "a number as text": ({"minEligible": "1"}, "minEligible"),
    "more than all": ({"minFraction": 1.1}, "minFraction"),
    "yes": ({"assumePrivileged": "yes"}, "assumePrivileged"),
    "one scheduler": ({"schedulers": "default-scheduler"}, "schedulers"),
    "a bad profile": ({"profiles": {"Ds": PROFILE}}, "profiles"),
    "an unknown field of a profile": ({"profiles": {"ds": {"namespace": "a"}}}, "namespace"),
    "a kind that is not injected": ({"profiles": {"ds": {"kind": "data"}}}, "kind"),
    "a bad namespace": ({"profiles": {"ds": {"namespaces": ["A"]}}}, "namespaces"),
    "half a pattern": ({"profiles": {"ds": {"namespaces": ["a*"]}}}, "namespaces"),
    "a bad variable": ({"profiles": {"ds": {"environment": {"A B": ""}}}}, "environment"),
    "a long value": ({"profiles": {"ds": {"environment": {"A": "x" * 4097}}}}, "environment"),
    "nine defaults": (
        {"profiles": {"ds": {"namespaces": ["*"]}}, "defaults": {"a": ["ds"] * 9}},
        "defaults",
    ),
}
WRONG: Final[dict[str, tuple[Tree, str]]] = {  # which a schema cannot say
    "a reserved profile": ({"profiles": {"uv": PROFILE}}, "uv is a reserved name"),
    "PATH": ({"profiles": {"ds": {"environment": {"PATH": "x"}}}}, "PATH is the image's own"),
    "a NUL": ({"profiles": {"ds": {"environment": {"A": "a\0"}}}}, "NUL"),
    "an unknown default": ({"defaults": {"a": ["ds"]}}, "names ds, which is no profile here"),
    "a default that may not be had": (
        {"profiles": {"ds": PROFILE}, "defaults": {"b": ["ds"]}},
        "names ds, which that namespace may not have",
    ),
}


@pytest.mark.parametrize("case", UNSEEMLY | WRONG)
def test_what_cannot_be_meant_is_refused_with_its_place(case: str) -> None:
    document, says = (UNSEEMLY | WRONG)[case]
    assert says in refusal(document)


@pytest.mark.parametrize("case", UNSEEMLY)
def test_the_schema_refuses_it_too(case: str) -> None:
    schema = json.loads(SCHEMA.read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(UNSEEMLY[case][0], schema)


def test_the_schema_takes_what_is_right() -> None:
    schema: Any = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({**POLICY, "defaults": {"team-a": ["ds"], "*": []}}, schema)
    jsonschema.validate({}, schema)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b'{"minFraction": NaN}'])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    refusal(data)


def test_more_than_a_config_map_holds_is_refused_unread() -> None:
    assert "it has 1,048,577 bytes, more than 1,048,576" in refusal(b" " * ((1 << 20) + 1))


@pytest.mark.parametrize(
    "value",
    [
        *("", "1", "a:b", "lib/x", "../x", "a/b:c/d", "$(HOME)/x", "~/x"),
        *("/opt/nodeagent/ds", "/opt/nodeagent/ds/lib:/opt/nodeagent/hf", "-L/x"),
        *("https://hub.example.dev/api", "x,http://a/b?c=/etc", '{"p": "/opt/nodeagent/ds"}'),
    ],
)
def test_an_environment_may_point_into_profiles_and_to_the_web(value: str) -> None:
    policed(profiles={"ds": {"environment": {"A": value}}})


@pytest.mark.parametrize(
    "value",
    [
        *("/", "/etc", "/nix/store/x", "/opt/nodeagent", "/opt/nodeagent/", "/opt/nodeagents/x"),
        *("/opt/nodeagent/ds:/usr/lib", "a=/etc", "a /etc", "a,/etc", "file:///etc/passwd"),
        *("/opt/nodeagent/../../etc", "/opt/nodeagent/ds/../..", '{"p": "/etc"}', "//etc"),
    ],
)
def test_an_environment_points_to_no_path_that_is_elsewhere_another(value: str) -> None:
    said = refusal({"profiles": {"ds": {"environment": {"A": value}}}})
    assert "does not lie under /opt/nodeagent/" in said
