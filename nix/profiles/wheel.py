"""Builder: one wheel becomes one store path, unpacked as it is and compiled once.

Runs under the interpreter that the profile ships. Extension modules stay untouched (see
`link_program` in debian.py); programs get the interpreter's own loader and search path.
"""

import compileall
import os
import py_compile
import shutil
import subprocess
import sysconfig
import zipfile
from pathlib import Path

OUT = Path(os.environ["out"])
PYTHON = Path(os.environ["python"])
SITE = OUT / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
# Where the sub-directories of NAME.data go (the wheel format's install schemes).
SCHEMES = {
    "purelib": SITE,
    "platlib": SITE,
    "scripts": OUT / "bin",
    "data": OUT,
    "headers": OUT / "include",
}


def output(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def unpack(wheel: Path) -> None:
    SITE.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(SITE)
    for data in SITE.glob("*.data"):
        for scheme in sorted(data.iterdir()):
            shutil.copytree(scheme, SCHEMES[scheme.name], dirs_exist_ok=True)
        shutil.rmtree(data)


def make_programs() -> None:
    """Make the wheel's own programs run from the store; scripts are finished by the profile."""
    for program in sorted((OUT / "bin").glob("*")):
        program.chmod(0o755)
        if is_elf(program):
            link(program)


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def link(program: Path) -> None:
    model = PYTHON / "bin" / "python3"
    loader = output("patchelf", "--print-interpreter", model).strip()
    search = output("patchelf", "--print-rpath", model).strip()
    output("patchelf", "--set-interpreter", loader, "--set-rpath", search, program)


def main() -> None:
    unpack(Path(os.environ["src"]))
    make_programs()
    compileall.compile_dir(
        SITE, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    support = OUT / "nix-support"
    support.mkdir()
    needs = [str(PYTHON), *os.environ["needs"].split()]
    (support / "propagated-build-inputs").write_text(" ".join(needs) + "\n")


main()
