"""A binary cache as a client sees it: files under one address, http(s):// or file://.

Synchronous on purpose: pouring happens in worker processes. Nothing that a cache says is
believed; every answer has a bound in bytes and every wait one in time. "Not there" is a value
(None), trouble is CacheUnreachable.
"""

from nodeagent.cache.access import Access
from nodeagent.cache.client import (
    ATTEMPTS,
    PATIENCE_SECONDS,
    REDIRECTS,
    Broken,
    Cache,
    opened,
)
from nodeagent.cache.decode import WINDOW_BYTES, Readable, Undecodable, decoder
from nodeagent.cache.download import RESUMES, Download, Source
from nodeagent.cache.health import DOWN_SECONDS, STRIKES, Down, Health, Memory
from nodeagent.cache.pace import MIN_BYTES_PER_SECOND
from nodeagent.cache.transport import Transport, explain

__all__ = [
    "ATTEMPTS",
    "DOWN_SECONDS",
    "MIN_BYTES_PER_SECOND",
    "PATIENCE_SECONDS",
    "REDIRECTS",
    "RESUMES",
    "STRIKES",
    "WINDOW_BYTES",
    "Access",
    "Broken",
    "Cache",
    "Down",
    "Download",
    "Health",
    "Memory",
    "Readable",
    "Source",
    "Transport",
    "Undecodable",
    "decoder",
    "explain",
    "opened",
]
