"""How profiles and store roots are written on the command line."""

from pathlib import Path

import pytest

from nodeagent.bake.spec import Part, parts
from nodeagent.errors import NodeAgentError
from nodeagent.names import Kind
from nodeagent.release import Profile
from tests.bakery import SYSTEM, made_up

DS, UV = made_up("ds"), made_up("ds-uv")
ARM = "aarch64-linux"


def test_a_profile_without_system_and_kind_is_an_environment_for_the_systems_machine() -> None:
    (part,) = parts([f"ds={DS}"], ["/"], SYSTEM)
    assert part == Part(SYSTEM, Path("/"), {"ds": Profile(root=DS, kind=Kind.ENV)})


def test_a_profile_says_its_kind_after_the_path() -> None:
    (part,) = parts([f"ds={DS}:env", f"ds-uv={UV}:uv-cache"], ["/"], SYSTEM)
    assert {name: one.kind for name, one in part.profiles.items()} == {
        "ds": Kind.ENV,
        "ds-uv": Kind.UV_CACHE,
    }


def test_several_systems_have_profiles_and_stores_of_their_own() -> None:
    found = parts([f"ds={DS}", f"{ARM}:ds={UV}"], ["/", f"{ARM}:/stores/arm"], SYSTEM)
    assert [(part.system, part.store_root) for part in found] == [
        (ARM, Path("/stores/arm")),
        (SYSTEM, Path("/")),
    ]


def test_a_system_without_a_store_of_its_own_is_in_the_store_given_for_all() -> None:
    (part,) = parts([f"{ARM}:ds={DS}"], ["/host"], SYSTEM)
    assert part.store_root == Path("/host")


def test_a_link_such_as_result_is_followed_to_the_store_path_and_no_further(
    tmp_path: Path,
) -> None:
    (tmp_path / "result-1").symlink_to(DS)
    (tmp_path / "result").symlink_to("result-1")
    (part,) = parts([f"ds={tmp_path}/result:env"], ["/"], SYSTEM)
    assert part.profiles["ds"].root == DS


def test_the_same_profile_twice_is_one() -> None:
    (part,) = parts([f"ds={DS}", f"{SYSTEM}:ds={DS}"], ["/"], SYSTEM)
    assert list(part.profiles) == ["ds"]


@pytest.mark.parametrize(
    ("profiles", "complaint"),
    [
        ([], "no profile is given"),
        (["ds"], "'ds' is no profile"),
        (["=x"], "'=x' is no profile"),
        ([f"ds={DS}:venv"], "unknown kind 'venv'"),
        (["ds=/usr/lib"], "is no store path"),
        ([f"ds={DS}/bin"], "is no store path"),
        ([f"ds={DS}", f"ds={UV}"], "profile ds for x86_64-linux is given twice"),
    ],
)
def test_what_is_no_profile_is_refused_with_the_form_it_should_have(
    profiles: list[str], complaint: str
) -> None:
    with pytest.raises(NodeAgentError) as caught:
        parts(profiles, ["/"], SYSTEM)
    assert complaint in caught.value.message
    assert "--profile [SYSTEM:]NAME=STORE_PATH[:KIND]" in caught.value.message


def test_an_empty_store_root_is_refused() -> None:
    with pytest.raises(NodeAgentError, match="'' is no store root"):
        parts([f"ds={DS}"], [""], SYSTEM)
