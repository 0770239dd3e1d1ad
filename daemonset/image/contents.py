# ruff: noqa: INP001 -- a script
"""Take what the agent needs of an installed Debian, package by package: contents.py DEBIAN TARGET.

Debian's own dependencies decide, but for those in `UNUSED`. No shell and no package manager come
along; `var/lib/dpkg/status.d` tells scanners which versions did, where they look in such images.
"""

import fnmatch
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOTS: Final = ("base-files", "ca-certificates", "netbase", "nix-bin", "python3")
UNUSED: Final = {  # Declared, but nothing that the agent starts reaches them:
    *("bash-static", "bzip2", "curl", "perl", "xz-utils"),  # nix-bin's, for builds and channels
    *("libdbd-sqlite3-perl", "libwww-curl-perl"),
    *("debconf", "dpkg", "openssl"),  # for installing
    *("mawk", "readline-common", "tzdata"),
}
PARTS: Final = {  # Single programs of large packages: what --nice and --idle-io start
    "coreutils": "/usr/bin/nice",
    "util-linux": "/usr/bin/ionice",
}
LEFT_OUT: Final = (
    *("*/__pycache__/*", "/usr/lib/python3*/lib-dynload/_test*"),
    *(f"/usr/lib/python3*/{one}/*" for one in ("ensurepip", "idlelib", "pydoc_data", "test")),
    *(
        "/usr/bin/locale*",
        "/usr/bin/pdb3*",
        "/usr/bin/py3*",
        "/usr/bin/pydoc*",
        "/usr/bin/pygettext*",
    ),
    *("/usr/lib/*/gconv/*", "/usr/lib/systemd/*", "/usr/lib/valgrind/*", "/usr/sbin/*"),
    *(f"/etc/{one}/*" for one in ("default", "init.d", "profile.d", "update-motd.d")),
    *("/usr/share/applications/*", "/usr/share/bash-completion/*", "/usr/share/bug/*"),
    *("/usr/share/ca-certificates/*", "/usr/share/doc/*", "/usr/share/fish/*", "/usr/share/gdb/*"),
    *("/usr/share/info/*", "/usr/share/lintian/*", "/usr/share/locale/*", "/usr/share/man/*"),
    *("/usr/share/perl5/*", "/usr/share/pixmaps/*", "/usr/share/python3/*", "/usr/share/zsh/*"),
)
KEPT: Final = "/usr/share/doc/*/copyright"  # Whoever passes on the image passes on the licences.
MADE: Final = {
    "etc/group": "root:x:0:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/passwd": "root:x:0:0:root:/tmp:/usr/sbin/nologin\n",
}
BUNDLE: Final = "etc/ssl/certs/ca-certificates.crt"


def packages(debian: Path) -> dict[str, str]:
    """Read dpkg's database: the stanza of every package, by name and by what it provides."""
    stanzas = (debian / "var/lib/dpkg/status").read_text().strip().split("\n\n")
    found: dict[str, str] = {}
    for stanza in stanzas:
        for name in _names(_field(stanza, "Provides")):
            found.setdefault(name, stanza)
    return found | {_field(stanza, "Package"): stanza for stanza in stanzas}


def closure(known: dict[str, str]) -> dict[str, str]:
    """Follow the dependencies from the roots."""
    chosen: dict[str, str] = {}
    queue = list(ROOTS)
    while queue:
        alternatives = queue.pop().split("|")
        if any(one in UNUSED for one in alternatives):
            continue
        stanza = next((known[one] for one in alternatives if one in known), None)
        if stanza is None:
            sys.exit(f"contents.py: {' or '.join(alternatives)} is not installed; install it first")
        name = _field(stanza, "Package")
        if name in UNUSED or name in chosen:
            continue
        chosen[name] = stanza
        queue += _names(_field(stanza, "Depends")) + _names(_field(stanza, "Pre-Depends"))
    return chosen


def files(debian: Path, stanza: str) -> Iterator[str]:
    """List what a package installed, but for what is left out everywhere."""
    name = _field(stanza, "Package")
    info = debian / "var/lib/dpkg/info"
    listed = info / f"{name}.list"
    if not listed.exists():
        listed = info / f"{name}:{_field(stanza, 'Architecture')}.list"
    for path in listed.read_text().splitlines():
        left_out = any(fnmatch.fnmatchcase(path, pattern) for pattern in LEFT_OUT)
        if fnmatch.fnmatchcase(path, KEPT) or not left_out:
            yield path


def take(debian: Path, target: Path, path: str) -> None:
    """Copy one file; its directories come with it, an empty one does not."""
    source, copy = debian / path.lstrip("/"), target / path.lstrip("/")
    known = copy.is_symlink() or not (source.is_symlink() or source.is_file())
    if not known:  # nor a directory, nor excluded by dpkg
        _parents(debian, target, copy.parent.relative_to(target))
        shutil.copy2(source, copy, follow_symlinks=False)


def _parents(debian: Path, target: Path, directory: Path) -> None:
    """Make directories with the modes that they have; /lib and /bin are links there."""
    for one in (*reversed(directory.parents), directory):
        source, copy = debian / one, target / one
        if source.is_symlink() and not copy.is_symlink():
            copy.symlink_to(source.readlink())
        copy.mkdir(exist_ok=True)
        shutil.copymode(source, copy)


def _field(stanza: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)$", stanza, re.MULTILINE)
    return found[1] if found else ""


def _names(field: str) -> list[str]:
    """Reduce a dependency field to names; alternatives stay joined."""
    plain = re.sub(r"\([^)]*\)|:any|\s", "", field)
    return [one for one in plain.split(",") if one]


def main(debian: Path, target: Path) -> None:
    """Fill the target."""
    target.mkdir()
    known = packages(debian)
    chosen = closure(known)
    told = target / "var/lib/dpkg/status.d"
    told.mkdir(parents=True)
    for name, stanza in chosen.items():
        for path in files(debian, stanza):
            take(debian, target, path)
        (told / name).write_text(stanza + "\n")
    for name, path in PARTS.items():
        take(debian, target, path)
        take(debian, target, f"/usr/share/doc/{name}/copyright")
        (told / name).write_text(known[name] + "\n")
    for path in ("bin", "lib", "lib64"):
        take(debian, target, path)
    take(debian, target, BUNDLE)
    for path, text in MADE.items():
        (target / path).write_text(text)
    for path in ("dev", "host", "proc", "run", "sys", "tmp", "usr/sbin"):
        (target / path).mkdir(exist_ok=True)
    (target / "tmp").chmod(0o1777)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
