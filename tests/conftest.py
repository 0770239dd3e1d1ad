"""How the tests run: Hypothesis profiles, and the few fixtures that many files share."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from tests import nars

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile(
    "ci",
    derandomize=False,  # Each run looks elsewhere,
    print_blob=True,  # … and says how to come back.
    deadline=None,  # A busy machine is no bug.
)
asyncio.set_event_loop(None)  # looptime leaves one behind that nobody closes
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure() -> None:
    """Have no event loop by default: who runs one in a test would leave that behind, unclosed."""
    asyncio.set_event_loop(None)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Give a directory that goes away whatever modes its files were given."""
    with nars.scratch() as directory:
        yield directory


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """Forget what a command configured: its stderr was that of its test."""
    yield
    structlog.reset_defaults()
