"""The fleet as the API server tells it, kept in memory for admission: watched, small, and dated.

Nothing is decided here. What cannot be known any more stays as it was, and its age says so.
"""

from nodeagent.fleet.snapshot import POLICY_KEY, POLICY_NAME, RESOURCES, Snapshot

__all__ = ["POLICY_KEY", "POLICY_NAME", "RESOURCES", "Snapshot"]
