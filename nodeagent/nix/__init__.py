"""The one package that speaks Nix.

The store is a *chroot store* under `root`: the host's files, whatever the agent's own image
has at /nix. Reading the database asks SQLite itself; writing goes through `nix-store --load-db`,
and what that drops (signatures, `ca`) is put back.
"""

from nodeagent.nix.commands import Nix
from nodeagent.nix.facts import Registration

__all__ = ["Nix", "Registration"]
