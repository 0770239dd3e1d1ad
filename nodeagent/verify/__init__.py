"""Verify: is what is published, or about to be, whole on disk?

`walk` looks at names, sizes and modes and gates publishing; `scrub` hashes contents, in
`worker` processes. Nothing is imported here: a worker must start fast and stay small.
"""
