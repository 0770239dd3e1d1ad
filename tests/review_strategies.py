"""Strategies for pods: nasty ones, of which little has its type, and sane ones, mostly injected."""

from typing import Any, Final

from hypothesis import strategies as st

from nodeagent.names import (
    ANNOTATION_EXCLUDE,
    ANNOTATION_INJECTED,
    ANNOTATION_OWN_STORE,
    ANNOTATION_PROFILES,
    ANNOTATION_SKIPPED,
    LABEL_INJECT,
    LABEL_PROFILE_PREFIX,
    LABEL_READY,
)

Tree = dict[str, Any]

SCALARS: Final = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(
        ["", "true", "ds", "nodeagent-store", "/nix/store", "~1/~0", "\ud800", "a\nb"]
    )
)
JUNK: Final = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(), max_size=6), inner, max_size=3)
    ),
    max_leaves=5,
)
NAMES: Final = st.sampled_from(
    ["main", "side", "init", "nodeagent-store", "nodeagent-ds", "nodeagent-hf", "data", ""]
)
PATHS: Final = st.sampled_from(
    [
        *("/", "/nix", "/nix/store", "/nix/store/x", "nix//store/", "/opt", "/opt/nodeagent"),
        *("/opt/nodeagent/ds", "/opt/nodeagent/../nodeagent/hf/a", "/data", "/nixes", "//nix/"),
    ]
)


def or_junk(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Give what is right most of the time, and anything at all otherwise."""
    return st.integers(0, 19).flatmap(lambda dice: JUNK if dice == 0 else good)


def mostly(usual: str, *others: str) -> st.SearchStrategy[str]:
    """Give what lets a pod pass most of the time."""
    return st.sampled_from([usual] * 3 * len(others) + [*others])


def tables(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Tree]:
    """Give objects with some of these fields."""
    return st.fixed_dictionaries(
        {}, optional={key: or_junk(value) for key, value in fields.items()}
    )


def arrays(inner: st.SearchStrategy[Any], size: int = 2) -> st.SearchStrategy[list[Any]]:
    return st.lists(or_junk(inner), max_size=size)


MOUNTS: Final = tables(name=NAMES, mountPath=PATHS, readOnly=st.booleans())
CONTAINERS: Final = tables(
    name=NAMES,
    image=st.sampled_from(["base:1", "docker.io/nixos/nix:2.30"]),
    volumeMounts=arrays(MOUNTS),
    volumeDevices=arrays(tables(name=NAMES, devicePath=PATHS), 1),
    env=arrays(tables(name=st.sampled_from(["A", "MODE", "HF_HOME", "PATH"]), value=st.just("x"))),
    restartPolicy=st.just("Always"),
)
EXPRESSIONS: Final = tables(
    key=st.sampled_from(["zone", "metadata.name", LABEL_READY]),
    operator=st.sampled_from(["In", "NotIn", "Exists"]),
    values=arrays(st.sampled_from(["node1", "node2", "true"])),
)
TERMS: Final = tables(matchExpressions=arrays(EXPRESSIONS, 1), matchFields=arrays(EXPRESSIONS, 1))
NODE_AFFINITY: Final = tables(
    requiredDuringSchedulingIgnoredDuringExecution=tables(nodeSelectorTerms=arrays(TERMS))
)
OURS: Final = [
    {"name": "nodeagent-store", "hostPath": {"path": "/run/nodeagent/store", "type": "Directory"}},
    {
        "name": "nodeagent-ds",
        "hostPath": {"path": "/run/nodeagent/profiles/ds", "type": "Directory"},
    },
]
SELECTED: Final = {LABEL_READY: "true", f"{LABEL_PROFILE_PREFIX}ds": "true"}
VOLUMES: Final = arrays(tables(name=NAMES, hostPath=JUNK)) | st.just(OURS)
SPECS: Final = tables(
    volumes=VOLUMES,
    containers=arrays(CONTAINERS),
    initContainers=arrays(CONTAINERS, 1),
    nodeSelector=st.just(SELECTED) | st.dictionaries(st.just(LABEL_READY), SCALARS),
    affinity=tables(nodeAffinity=NODE_AFFINITY),
    nodeName=mostly("", "node1", "gone"),
    hostUsers=st.booleans(),
    os=tables(name=mostly("linux", "windows")),
    schedulerName=mostly("default-scheduler", "other"),
)
ANNOTATIONS: Final = st.fixed_dictionaries(
    {ANNOTATION_PROFILES: or_junk(mostly("ds", "hf,ds", " ds , hf ", "ds,,", "no", ""))},
    optional={
        ANNOTATION_EXCLUDE: or_junk(mostly("", "side", "main", "main,side,init", ",")),
        ANNOTATION_OWN_STORE: mostly("false", "true"),
        ANNOTATION_INJECTED: or_junk(st.just("ds")),
        ANNOTATION_SKIPPED: or_junk(st.sampled_from(["Conflict", ""])),
    },
)
METADATA: Final = st.fixed_dictionaries(
    {
        "labels": or_junk(st.fixed_dictionaries({LABEL_INJECT: or_junk(mostly("true", "false"))})),
        "annotations": or_junk(ANNOTATIONS),
    }
)
PODS: Final = st.fixed_dictionaries({"metadata": or_junk(METADATA), "spec": or_junk(SPECS)})
# What an API server lets through as far as admission can tell, so that most are injected.
SANE_CONTAINERS: Final = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["main", "side", "init"])},
        optional={
            "env": st.lists(
                st.fixed_dictionaries({"name": st.sampled_from(["A", "MODE", "HF_HOME"])}),
                max_size=2,
            ),
            "volumeMounts": st.lists(
                st.fixed_dictionaries(
                    {"name": st.just("data"), "mountPath": st.sampled_from(["/data", "/opt/x"])}
                ),
                max_size=1,
            ),
        },
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda one: str(one["name"]),
)
SANE_PODS: Final = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {
                "labels": st.just({LABEL_INJECT: "true"}),
                "annotations": st.fixed_dictionaries(
                    {ANNOTATION_PROFILES: st.sampled_from(["ds", "hf", "ds,hf", "hf,ds"])},
                    optional={
                        ANNOTATION_EXCLUDE: st.sampled_from(["main", "side"]),
                        ANNOTATION_SKIPPED: st.just("Conflict"),
                        "note": st.just("x"),
                    },
                ),
            }
        ),
        "spec": st.fixed_dictionaries(
            {"containers": SANE_CONTAINERS},
            optional={
                "initContainers": SANE_CONTAINERS,
                "volumes": st.just([{"name": "data", "emptyDir": {}}]),
                "nodeSelector": st.sampled_from([{}, SELECTED, None]),
                "unknown": JUNK,
            },
        ),
    }
)
