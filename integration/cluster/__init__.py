"""A real Kubernetes cluster of several nodes on one Linux machine, for tests; see README.md."""

from integration.cluster.cluster import Cluster
from integration.cluster.commands import ClusterError

__all__ = ["Cluster", "ClusterError"]
