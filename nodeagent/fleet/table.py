"""One watched collection as it is known now."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from nodeagent.kube.watch import Change, Changed, Collection, Listed

P = TypeVar("P")


@dataclass
class Table(Generic[P]):
    """The projections of a collection, by name.

    `on_change` hears of each that is otherwise than before: its name, what it was, what it is.
    """

    collection: Collection[P]
    on_change: Callable[[str, P | None, P | None], None]
    objects: dict[str, P] = field(default_factory=dict)

    def take(self, change: Change[P]) -> None:
        """Follow a change; a list leaves nothing standing that is not in it."""
        match change:
            case Listed(objects=objects):
                for name in self.objects.keys() | objects.keys():
                    self.put(name, objects.get(name))
            case Changed(name=name, found=found):
                self.put(name, found)

    def put(self, name: str, found: P | None) -> None:
        """Have this of that name; None: nothing."""
        before = self.objects.get(name)
        if found == before:
            return
        if found is None:
            del self.objects[name]
        else:
            self.objects[name] = found
        self.on_change(name, before, found)
