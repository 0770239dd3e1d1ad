"""Closures as values: strategies for graphs of store paths, with and without order."""

from hypothesis import strategies as st

from nodeagent import storepath
from nodeagent.names import Kind
from nodeagent.release import PathInfo, Profile, System


def path(number: int) -> str:
    """Name a store path; higher numbers do not sort higher."""
    return f"/nix/store/{storepath.base32(bytes([number * 149 % 256]) * 20)}-p{number}"


def info(number: int, references: tuple[str, ...] = ()) -> PathInfo:
    """Describe a store path; each number has a hash and a size of its own."""
    return PathInfo(
        nar_hash=storepath.nar_hash(bytes([number]) * 32),
        nar_size=number + 1,
        references=references,
    )


@st.composite
def dags(draw: st.DrawFn, max_size: int = 12) -> dict[str, PathInfo]:
    """Closures as stores have them: complete, acyclic but for self-references."""
    size = draw(st.integers(0, max_size))
    paths = {}
    for number in draw(st.permutations(range(size))):
        below = draw(st.sets(st.integers(0, number)))  # itself included
        paths[path(number)] = info(number, tuple(path(one) for one in below))
    return paths


@st.composite
def graphs(draw: st.DrawFn, max_size: int = 8) -> dict[str, PathInfo]:
    """Whatever a manifest may claim: cycles, and references to what is not there."""
    numbers = st.integers(0, max_size)
    claims = draw(st.dictionaries(numbers, st.lists(numbers, max_size=4)))
    return {
        path(number): info(number, tuple(path(one) for one in references))
        for number, references in claims.items()
    }


def system(paths: dict[str, PathInfo]) -> System:
    """Make each path that nobody refers to the root of a profile."""
    referred = {ref for at, one in paths.items() for ref in one.references if ref != at}
    roots = sorted(paths.keys() - referred)
    profiles = {f"p{at}": Profile(root=root, kind=Kind.ENV) for at, root in enumerate(roots)}
    return System(profiles=profiles, paths=paths)
