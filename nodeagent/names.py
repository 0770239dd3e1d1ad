"""Every name that somebody outside this package may read: labels, paths, reasons, metrics.

Nothing is computed here. Documentation and tests take their lists from these enums.
"""

from enum import StrEnum
from typing import Final

API_VERSION: Final = "nodeagent.dev/v1"
RECORD_TYPE = "application/vnd.nodeagent.channel-record.v1+json"

STORE_DIR = "/nix/store"
POD_PROFILES_DIR = "/opt/nodeagent"
RUN_DIR = "/run/nodeagent"
STATE_DIR = "/var/lib/nodeagent"
BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"

LABEL_READY = "nodeagent.dev/ready"
LABEL_PROFILE_PREFIX = "profile.nodeagent.dev/"
LABEL_CHANNEL = "nodeagent.dev/channel"
CONDITION = "nodeagent.dev/StoreReady"
CONDITION_DISK = "nodeagent.dev/DiskSuspect"
TAINT = "nodeagent.dev/not-ready"
LABEL_INJECT = "nodeagent.dev/inject"
ANNOTATION_PROFILES = "nodeagent.dev/profiles"
ANNOTATION_EXCLUDE = "nodeagent.dev/exclude-containers"
ANNOTATION_OWN_STORE = "nodeagent.dev/own-store"
ANNOTATION_INJECTED = "nodeagent.dev/injected"
ANNOTATION_SKIPPED = "nodeagent.dev/skipped"
VOLUME_PREFIX = "nodeagent-"
VOLUME_STORE = "nodeagent-store"
FIELD_MANAGER = "nodeagent"
GROUP = "nodeagent.dev"
NODE_STORE_VERSION = "nodeagent.dev/v1alpha1"
AUTHORITIES = "nodeagent-webhook-ca"  # the Secret with the CAs of the webhook
LEASE = "nodeagent-controller"  # who of the controller's replicas writes

DEFAULT_CHANNEL = "stable"
DEFAULT_PORT = 9741
CONTROLLER_PORT = 9742
WEBHOOK_PORT = 9743
NAMESPACE = "nodeagent-system"
WEBHOOK_SERVICE = "nodeagent-webhook"
WEBHOOK_CONFIGURATION = "nodeagent"
RESERVED_PROFILES = frozenset({"uv", "store"})


class Kind(StrEnum):
    """What a profile holds."""

    ENV = "env"
    UV_CACHE = "uv-cache"
    MODELS = "models"


class Phase(StrEnum):
    """What the agent is doing now."""

    STARTING = "Starting"
    WAITING = "Waiting"
    FETCHING_MANIFEST = "FetchingManifest"
    PLANNING = "Planning"
    POURING = "Pouring"
    VERIFYING = "Verifying"
    PUBLISHING = "Publishing"
    IDLE = "Idle"
    RETRYING = "Retrying"


SETTLED = frozenset({Phase.WAITING, Phase.IDLE, Phase.RETRYING})


class Reason(StrEnum):
    """Why the agent did not do what was asked, or why it is not ready."""

    PINS_MISSING = "PinsMissing"
    PINS_INVALID = "PinsInvalid"
    CHANNEL_UNKNOWN = "ChannelUnknown"
    SIGNATURE_INVALID = "SignatureInvalid"
    RECORD_INVALID = "RecordInvalid"
    WRONG_FLEET = "WrongFleet"
    WRONG_CHANNEL = "WrongChannel"
    SERIAL_BELOW_FLOOR = "SerialBelowFloor"
    RECORD_EXPIRED = "RecordExpired"
    RECORD_NOT_YET_VALID = "RecordNotYetValid"
    OUTSIDE_ROLLOUT = "OutsideRollout"
    CACHE_UNKNOWN = "CacheUnknown"
    CACHE_UNREACHABLE = "CacheUnreachable"
    MANIFEST_MISSING = "ManifestMissing"
    MANIFEST_MISMATCH = "ManifestMismatch"
    MANIFEST_INVALID = "ManifestInvalid"
    SYSTEM_MISSING = "SystemMissing"
    CLOSURE_INCOMPLETE = "ClosureIncomplete"
    NAR_MISSING = "NarMissing"
    NAR_CORRUPT = "NarCorrupt"
    PATH_UNTRUSTED = "PathUntrusted"
    PATH_CONFLICT = "PathConflict"
    PATH_DAMAGED = "PathDamaged"
    REPEATED_DAMAGE = "RepeatedDamage"
    WORKER_DIED = "WorkerDied"
    FOREIGN_STORE = "ForeignStore"
    STORE_UNUSABLE = "StoreUnusable"
    DISK_SHORT = "DiskShort"
    NIX_FAILED = "NixFailed"
    NOTHING_PUBLISHED = "NothingPublished"
    COLLECTION_STALLED = "CollectionStalled"
    API_UNREACHABLE = "ApiUnreachable"
    API_REFUSED = "ApiRefused"
    POLICY_NOT_ENFORCED = "PolicyNotEnforced"
    POLICY_INVALID = "PolicyInvalid"
    SELINUX_UNLABELLED = "SELinuxUnlabelled"
    AGENT_UNREACHABLE = "AgentUnreachable"
    AGENT_RUNNING = "AgentRunning"
    IN_USE = "InUse"
    SETTING_INVALID = "SettingInvalid"
    INTERNAL_ERROR = "InternalError"


class Outcome(StrEnum):
    """What admission did with a pod, and why; in the order in which it is decided."""

    NOT_OPTED_IN = "NotOptedIn"
    OPTED_OUT = "OptedOut"
    MIRROR_POD = "MirrorPod"
    WINDOWS = "Windows"
    SCHEDULER = "Scheduler"
    NAMESPACE_EXCLUDED = "NamespaceExcluded"
    ALREADY_INJECTED = "AlreadyInjected"
    STALE_SNAPSHOT = "StaleSnapshot"
    NAMESPACE_UNKNOWN = "NamespaceUnknown"
    NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
    BAD_ANNOTATION = "BadAnnotation"
    NO_PROFILE = "NoProfile"
    UNKNOWN_PROFILE = "UnknownProfile"
    POD_SECURITY = "PodSecurity"
    OWN_STORE = "OwnStore"
    CONFLICT = "Conflict"
    USER_NAMESPACE = "UserNamespace"
    NODE_NOT_READY = "NodeNotReady"
    NOT_ENOUGH_NODES = "NotEnoughNodes"
    TOO_MANY_EXCLUDED = "TooManyExcluded"
    BREAKER_OPEN = "BreakerOpen"
    PATCH_UNSAFE = "PatchUnsafe"
    INTERNAL_ERROR = "InternalError"
    INJECTED = "Injected"


SILENT = frozenset(  # these leave no trace on the pod
    {
        Outcome.NOT_OPTED_IN,
        Outcome.OPTED_OUT,
        Outcome.MIRROR_POD,
        Outcome.WINDOWS,
        Outcome.SCHEDULER,
        Outcome.NAMESPACE_EXCLUDED,
    }
)


class Metric(StrEnum):
    """An agent's Prometheus metrics; `nodeagent.metrics` gives each its type and help."""

    READY = "nodeagent_ready"
    CHECK = "nodeagent_check"
    PHASE = "nodeagent_phase"
    PUBLISHED_INFO = "nodeagent_published_info"
    WANTED_INFO = "nodeagent_wanted_info"
    SERIAL = "nodeagent_published_serial"
    PASSES = "nodeagent_passes_total"
    REFUSALS = "nodeagent_refusals_total"
    PASS_SECONDS = "nodeagent_pass_duration_seconds"  # noqa: S105 a metric, not a secret
    PATHS_POURED = "nodeagent_paths_poured_total"
    BYTES_POURED = "nodeagent_bytes_poured_total"
    BYTES_TODO = "nodeagent_bytes_todo"
    LAST_SUCCESS = "nodeagent_last_success_timestamp_seconds"
    BYTES_SCRUBBED = "nodeagent_bytes_scrubbed_total"
    SCRUB_DAMAGED = "nodeagent_scrub_damaged_total"
    LAST_SCRUB = "nodeagent_last_scrub_timestamp_seconds"
    SCRUB_PATHS_DUE = "nodeagent_scrub_paths_due"
    SCRUB_BYTES_DUE = "nodeagent_scrub_bytes_due"
    SCRUB_RATE = "nodeagent_scrub_bytes_per_second"
    SCRUB_OLDEST = "nodeagent_scrub_oldest_timestamp_seconds"
    RELEASES = "nodeagent_releases"
    PATHS_COLLECTED = "nodeagent_paths_collected_total"
    BYTES_COLLECTED = "nodeagent_bytes_collected_total"
    COLLECTION_SECONDS = "nodeagent_collection_duration_seconds"
    COLLECTIONS_MISSED = "nodeagent_collections_missed"
    LAST_COLLECTION = "nodeagent_last_collection_timestamp_seconds"
    BUILD_INFO = "nodeagent_build_info"


class ControllerMetric(StrEnum):
    """The controller's Prometheus metrics."""

    ADMISSIONS = "nodeagent_admissions_total"
    ADMISSION_SECONDS = "nodeagent_admission_duration_seconds"
    WEBHOOK_REQUESTS = "nodeagent_webhook_requests_total"
    SNAPSHOT_AGE = "nodeagent_snapshot_age_seconds"
    SNAPSHOT_OBJECTS = "nodeagent_snapshot_objects"
    CERTIFICATE_EXPIRY = "nodeagent_certificate_expiry_timestamp_seconds"
    POLICY_VALID = "nodeagent_policy_valid"
    BREAKER_OPEN = "nodeagent_breaker_open"
    BUILD_INFO = "nodeagent_build_info"
