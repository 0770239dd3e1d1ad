"""The agent's settings: flags and `NODEAGENT_*` variables of the same names."""

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from nodeagent import names

MOST_SKEW_SECONDS: Final = 10 * 365 * 24 * 3600.0
_CACHE: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]+)=(?P<address>(?:https?|file)://\S+)")


def this_node() -> str:
    """Name this machine."""
    return platform.node()


def this_system() -> str:
    """Name this machine's Nix system."""
    return f"{platform.machine()}-linux"


def _split(value: object) -> object:
    return re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value


def _cache(text: str) -> str:
    if _CACHE.fullmatch(text) is None:
        raise ValueError(
            f"{text!r} is no cache: write NAME=ADDRESS, e.g. main=https://cache.example"
        )
    return text


Seconds = Annotated[float, Field(gt=0)]
CacheList = Annotated[
    list[Annotated[str, AfterValidator(_cache)]], NoDecode, BeforeValidator(_split)
]


class Settings(BaseSettings):
    """Base of every sub-command's settings."""

    model_config = SettingsConfigDict(env_prefix="NODEAGENT_", frozen=True)


class NodeSettings(Settings):
    """What tells a node, and where on it nodeagent writes."""

    node_name: str = Field(default_factory=this_node, description="this node's name")
    store_root: Path = Field(Path("/"), description="the store is nix/store below this directory")
    host_store: str | None = Field(
        None, description="what the host calls the store directory (default: as here)"
    )
    state_dir: Path = Field(Path(names.STATE_DIR), description="durable state")
    run_dir: Path = Field(Path(names.RUN_DIR), description="gates; a tmpfs in production")
    kubernetes: Literal["auto", "on", "off"] = Field(
        "auto", description="speak of the node to the API server (auto: in a pod)"
    )
    kubeconfig: Path | None = Field(None, description="how to reach it from outside a pod")

    def in_cluster(self, environment: Mapping[str, str]) -> bool:
        """Tell whether there is an API server to speak to."""
        if self.kubernetes == "auto":
            return self.kubeconfig is not None or "KUBERNETES_SERVICE_HOST" in environment
        return self.kubernetes == "on"


class CleanupSettings(NodeSettings):
    """Take what nodeagent made off this node."""

    store: bool = Field(
        default=False, description="delete the store's content, too, if it is nodeagent's alone"
    )
    force: bool = Field(default=False, description="go on although pods use the node's store")


class ControllerSettings(Settings):
    """Answer the API server's reviews of pods from a snapshot of the fleet."""

    pod_name: str = Field(default_factory=this_node, description="who holds leases here")
    namespace: str = Field(names.NAMESPACE, description="nodeagent's own namespace")
    service: str = Field(
        names.WEBHOOK_SERVICE, description="the Service by which the webhook is reached"
    )
    webhook_configuration: str = Field(
        names.WEBHOOK_CONFIGURATION,
        description="the MutatingWebhookConfiguration whose caBundle is kept",
    )
    host: str = Field("0.0.0.0", description="address of endpoints and webhook")  # noqa: S104 the API server is elsewhere
    port: int = Field(names.CONTROLLER_PORT, ge=0, le=65535, description="port of the endpoints")
    webhook_port: int = Field(names.WEBHOOK_PORT, ge=0, le=65535, description="port of the webhook")
    certificates: Literal["own", "files"] = Field(
        "own", description="own: a CA of nodeagent's; files: --tls-cert and --tls-key"
    )
    tls_cert: Path = Field(
        Path("/etc/nodeagent/tls/tls.crt"), description="the webhook's certificate, with files"
    )
    tls_key: Path = Field(Path("/etc/nodeagent/tls/tls.key"), description="its key, with files")
    drain_seconds: float = Field(
        5.0, ge=0, description="answer for so long after SIGTERM, until nobody asks any more"
    )
    kubeconfig: Path | None = Field(None, description="how to reach the API server from outside")


class AgentSettings(NodeSettings):
    """Keep this node's pins realised, verified and published."""

    pins: Path = Field(Path("/etc/nodeagent/pins/pins.json"), description="the pins document")
    fleet: str = Field("default", description="the fleet that records must be signed for")
    channel: str = Field(
        names.DEFAULT_CHANNEL,
        description=f"this node's channel, unless its label {names.LABEL_CHANNEL} says another",
    )
    system: str = Field(default_factory=this_system, description="this node's Nix system")
    caches: CacheList = Field(
        [], description="binary caches that pins may choose: NAME=ADDRESS, several by commas"
    )
    netrc: Path | None = Field(None, description="user and password per cache host, as for curl")
    ca_file: Path | None = Field(None, description="certificates to trust beside the system's")
    connect_seconds: Seconds = Field(5.0, description="longest wait for a cache to connect")
    stall_seconds: Seconds = Field(
        30.0, description="longest wait for an answer, and for too few bytes of one"
    )
    release_keys: Path = Field(
        Path("/etc/nodeagent/keys/release.pub"), description="public keys that sign records"
    )
    cache_keys: Path = Field(
        Path("/etc/nodeagent/keys/cache.pub"), description="public keys that sign store paths"
    )
    min_serial: int = Field(0, ge=0, description="the lowest serial that a new node takes")
    share_store: bool = Field(default=False, description="add to a store that is not nodeagent's")
    boot_id_file: Path = Field(Path(names.BOOT_ID_FILE), description="names the current boot")
    startup_taint: bool = Field(
        default=False, description=f"take the taint {names.TAINT} off the node once it is ready"
    )
    host: str = Field("0.0.0.0", description="address of the endpoints")  # noqa: S104 probes come from the kubelet
    port: int = Field(names.DEFAULT_PORT, ge=0, le=65535, description="port of the endpoints")
    executor: Literal["auto", "pour", "nix"] = Field(
        "auto", description="who fetches: nodeagent, or the Nix daemon that owns the store"
    )
    workers: int = Field(0, ge=0, description="pour workers (0: one per core)")
    nice: int = Field(0, ge=0, le=19, description="niceness of the pour workers")
    idle_io: bool = Field(
        default=False, description="pour workers use the disk only when nobody else does"
    )
    bytes_per_second: float = Field(
        0.0,
        ge=0,
        description="fetch at most this much from caches (0: no limit)",
    )
    durable: bool = Field(default=True, description="sync data before it becomes visible")
    keep_releases: int = Field(
        1, ge=0, description="keep this many more of the releases that pods got last"
    )
    collect_seconds: Seconds = Field(600.0, description="look this often for what may go")
    collect_grace_seconds: float = Field(
        900.0, ge=0, description="what nobody needs is out of reach this long before it is deleted"
    )
    collect_margin_seconds: float = Field(
        300.0, ge=0, description="a container may have bound its mounts this long before its start"
    )
    ensure_free: float = Field(
        15.0,
        ge=0,
        lt=100,
        description="with less of the disk left, in percent, nothing is kept that nobody needs",
    )
    scrub_days: float = Field(
        30.0, ge=0, description="read all contents again within this many days (0: never)"
    )
    scrub_bytes_per_second: int = Field(
        5_000_000, ge=0, description="how fast contents are read again (0: no limit)"
    )
    resync_seconds: Seconds = Field(300.0, description="look at everything again this often")
    retry_seconds: Seconds = Field(2.0, description="first wait after a failed pass; it doubles")
    retry_max_seconds: Seconds = Field(120.0, description="longest wait after a failed pass")
    clock_skew_seconds: float = Field(
        0.0,
        ge=-MOST_SKEW_SECONDS,
        le=MOST_SKEW_SECONDS,
        description="how far the agent's clock shall be ahead of the machine's; behind: negative",
    )
    once: bool = Field(default=False, description="one pass, then exit: 0 published, 1 not")

    @property
    def cache_addresses(self) -> list[tuple[str, str]]:
        """The caches as (name, address)."""
        return [(name, address) for name, _, address in (one.partition("=") for one in self.caches)]
