"""Bake: from store paths to a release in a binary cache, and all that is asked of releases.

Nothing is imported here: a worker is a process that must start fast and stay small.
"""
