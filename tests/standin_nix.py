"""Stands in for `nix` and `nix-store` over a store that `tests.bakery.Store` wrote.

Started as a program: it answers from `registered.json`, as Nix 2.8 does.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    _, _, store, verb, *arguments = sys.argv
    known = json.loads((Path(store) / "registered.json").read_text())
    names = [argument for argument in arguments if not argument.startswith("--")]
    if verb == "--check-validity":
        sys.stdout.write("".join(f"{name}\n" for name in names if name not in known))
        return
    found: set[str] = set()
    while names:
        name = names.pop()
        if name not in found:
            found.add(name)
            names += known[name]["references"]
    json.dump([{"path": name, **known[name]} for name in sorted(found)], sys.stdout)


if __name__ == "__main__":
    main()
