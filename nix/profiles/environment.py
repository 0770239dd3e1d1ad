"""Builder: the profile, laid out like a virtual environment whose packages are links.

One site-packages directory keeps imports as fast as in a plain environment: a search path
of forty store paths would cost forty look-ups per import.
"""

import os
import sys
import sysconfig
from collections import defaultdict
from importlib.metadata import distributions
from pathlib import Path

OUT = Path(os.environ["out"])
PYTHON = Path(os.environ["python"])
BIN = OUT / "bin"
SITE = Path("lib") / f"python{sysconfig.get_python_version()}" / "site-packages"
SCRIPT = """\
#!{python}
import sys
from {module} import {name}
sys.exit({call}())
"""


def closure(roots: list[Path]) -> list[Path]:
    """Give the wheels that these need, by what each path says that it propagates."""
    found: dict[Path, None] = {}
    waiting = list(roots)
    while waiting:
        path = waiting.pop()
        if path not in found and path != PYTHON:
            found[path] = None
            propagated = path / "nix-support" / "propagated-build-inputs"
            waiting += map(Path, propagated.read_text().split())
    return sorted(found)


def merge(target: Path, sources: list[Path]) -> None:
    """Link every entry of the sources; only a directory that several fill is made anew.

    And a .dist-info: uv takes no notice of one that is a link.
    """
    owners: dict[str, list[Path]] = defaultdict(list)
    for source in sources:
        for entry in source.iterdir():
            owners[entry.name].append(entry)
    target.mkdir(parents=True, exist_ok=True)
    for name, entries in sorted(owners.items()):
        if len(entries) == 1 and not name.endswith(".dist-info"):
            (target / name).symlink_to(entries[0])
        elif all(entry.is_dir() for entry in entries):
            merge(target / name, entries)
        else:
            sys.exit(f"several packages hold {target / name}: {', '.join(map(str, entries))}")


def configure() -> None:
    """Make bin/python3 an interpreter whose prefix is the profile, as in any environment."""
    BIN.mkdir(exist_ok=True)
    for name in ("python", "python3", f"python{sysconfig.get_python_version()}"):
        (BIN / name).symlink_to(PYTHON / "bin" / "python3")
    (OUT / "pyvenv.cfg").write_text(
        f"home = {PYTHON / 'bin'}\n"
        "include-system-site-packages = false\n"
        f"version = {sys.version.split()[0]}\n"
    )


def write_scripts() -> None:
    for distribution in distributions(path=[str(OUT / SITE)]):
        for entry in distribution.entry_points.select(group="console_scripts"):
            script = BIN / entry.name
            script.write_text(
                SCRIPT.format(
                    python=BIN / "python3",
                    module=entry.module,
                    name=entry.attr.partition(".")[0],
                    call=entry.attr,
                )
            )
            script.chmod(0o755)


def main() -> None:
    wheels = closure([Path(word) for word in os.environ["roots"].split()])
    OUT.mkdir()
    merge(OUT / SITE, [wheel / SITE for wheel in wheels])
    merge(BIN, [wheel / "bin" for wheel in wheels if (wheel / "bin").is_dir()])
    configure()
    write_scripts()


main()
