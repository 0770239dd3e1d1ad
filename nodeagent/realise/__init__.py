"""Realise: carry out a plan. `run` hands out jobs and commits, `worker` pours.

Nothing is imported here: a worker is a process that must start fast and stay small.
"""
