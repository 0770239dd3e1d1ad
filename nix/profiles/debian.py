"""Builder: Debian packages become one store path that finds its libraries by store path.

Every ELF file gets a search path of exactly the directories that hold what it needs,
which is also how Nix learns the references. A library that nobody holds fails the build.
"""

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

OUT = Path(os.environ["out"])
LIB = OUT / "lib"


def paths(variable: str) -> list[Path]:
    return [Path(word) for word in os.environ[variable].split()]


def output(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def unpack(part: Path, tree: Path) -> None:
    """Lay out one package: a .deb, or a .tar of the files that the machine has installed."""
    if part.suffix == ".deb":
        output("dpkg-deb", "--extract", part, tree)
    else:
        output("tar", "--extract", "--file", part, "--directory", tree)


def place(tree: Path) -> None:
    """Move a tree into the output, /usr and the multiarch directories folded away."""
    for shared in [*tree.glob("lib/*-linux-gnu*"), *tree.glob("usr/lib/*-linux-gnu*")]:
        shutil.copytree(shared, LIB, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(shared)
    for directory in ("bin", "lib", "share"):
        if (tree / "usr" / directory).is_dir():
            shutil.copytree(
                tree / "usr" / directory, OUT / directory, symlinks=True, dirs_exist_ok=True
            )


def drop_dangling() -> None:
    """Remove links into what is not part of this path: /etc, or another package's /usr/share."""
    for link in [path for path in OUT.rglob("*") if path.is_symlink() and not path.exists()]:
        link.unlink()


def elf_files() -> list[Path]:
    files = [path for path in OUT.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(path for path in files if is_elf(path))


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def holder(soname: str, directories: list[Path]) -> Path:
    for directory in directories:
        if (directory / soname).exists():
            return directory
    sys.exit(f"{OUT.name}: nothing that it depends on holds {soname}")


def link(elf: Path, directories: list[Path]) -> None:
    needed = output("patchelf", "--print-needed", elf).split()
    holders = dict.fromkeys(holder(soname, directories) for soname in needed)
    if is_program(elf):
        link_program(elf, holders, directories)
    elif holders:
        output("patchelf", "--set-rpath", ":".join(map(str, holders)), elf)


def is_program(elf: Path) -> bool:
    return elf.parent == OUT / "bin"


def link_program(elf: Path, holders: dict[Path, None], directories: list[Path]) -> None:
    """Give a program its loader, and a search path that serves what it loads later too.

    RPATH (not RUNPATH) of the program is also searched for the libraries of the modules it
    loads. So the extension modules of wheels, which expect a C and C++ run time from the
    system, find them here without being edited.
    """
    loader = Path(output("patchelf", "--print-interpreter", elf).strip()).name
    platform = [path / "lib" for path in paths("platform")]
    search = ":".join(map(str, dict.fromkeys([*holders, *platform])))
    output(
        "patchelf",
        *("--set-interpreter", holder(loader, directories) / loader),
        *("--force-rpath", "--set-rpath", search),
        elf,
    )


def compile_library() -> None:
    """Compile a standard library; a store has no times, so its .pyc are trusted as they are."""
    program = OUT / "bin" / "python3"
    program.symlink_to(next(program.parent.glob("python3.*")).name)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH.name.lower().replace("_", "-")
    output(
        # -B: else what the compiler itself imports is compiled too early, in the usual mode.
        *(program, "-B", "-I", "-m", compileall.__name__, "-q", "-j", "2"),
        *("--invalidation-mode", mode, LIB),
    )


def main() -> None:
    tree = Path("tree").absolute()
    tree.mkdir()
    for part in paths("parts"):
        unpack(part, tree)
    OUT.mkdir()
    place(tree)
    drop_dangling()
    needs = paths("needs")
    for elf in elf_files() if needs else []:
        link(elf, [LIB, *(path / "lib" for path in needs)])
    if list(OUT.glob("bin/python3.*")):
        compile_library()


main()
