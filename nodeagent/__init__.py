"""Keeps a node's Nix store filled with exactly the closures that are pinned to it."""

__version__ = "0.1.0"
