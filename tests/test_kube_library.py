"""Of the Kubernetes library, only the half that is used is loaded."""

import subprocess
import sys

PROGRAM = """
import sys
from nodeagent import kube
print(*sorted(one for one in sys.modules if one.startswith("kubernetes.")))
"""


def test_the_synchronous_half_is_not_loaded() -> None:
    argv = [sys.executable, "-c", PROGRAM]
    loaded = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert "kubernetes.aio.client" in loaded
    assert [one for one in loaded if not one.startswith("kubernetes.aio")] == []
