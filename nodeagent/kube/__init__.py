"""The Kubernetes API: the one place that speaks it.

Requests go to known paths, so that nothing has to be discovered first and an agent starts
without an API server. Every request has a time-out, and every failure is a NodeAgentError.
"""

import importlib.util
import sys

_LIBRARY = "kubernetes"
if _LIBRARY not in sys.modules and (_spec := importlib.util.find_spec(_LIBRARY)) is not None:
    # Its package imports its synchronous half, too: 7 MiB that nobody here has a use for.
    sys.modules[_LIBRARY] = importlib.util.module_from_spec(_spec)

from nodeagent.kube.api import Api, connected
from nodeagent.kube.events import Event, Events
from nodeagent.kube.faults import BusyError, LostError, RefusedError
from nodeagent.kube.node import Node, Seen
from nodeagent.kube.nodestore import NodeStore, describe

__all__ = [
    "Api",
    "BusyError",
    "Event",
    "Events",
    "LostError",
    "Node",
    "NodeStore",
    "RefusedError",
    "Seen",
    "connected",
    "describe",
]
