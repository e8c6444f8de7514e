"""Names in emitted modules: what the author wrote, wherever Python allows it."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Iterable


def camel_case(name: str) -> str:
    """`direct_feedback` as the name of a class: `DirectFeedback`."""
    return "".join(word.capitalize() for word in name.split("_"))


class Names:
    """Gives every thing in a module a Python name of its own."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self._reserved = {*reserved, *keyword.kwlist, *keyword.softkwlist, *dir(builtins)}
        self._taken = set(self._reserved)
        self._given: dict[str, str] = {}

    def keep(self, *names: str) -> None:
        """Names of the language, used as they are."""
        for name in names:
            self._given[name] = name
        self.reserve(*names)

    def reserve(self, *names: str) -> None:
        """Names that nothing else may have, not even a value inside a function."""
        self._reserved.update(names)
        self._taken.update(names)

    def give(self, key: str, wish: str, *, avoid: frozenset[str] = frozenset(), argument: bool = False) -> str:
        """The name of `key`: the wish, with underscores behind it until nobody else has it."""
        if key not in self._given:
            name = wish
            while name in self._taken or name in avoid:
                name += "_"
            self._given[key] = name
            self._taken.add(name)
            if argument:
                self._reserved.add(name)
        return self._given[key]

    def free(self, name: str) -> bool:
        """Whether a value inside a function may have the name: it hides no argument and nothing of Python."""
        return name not in self._reserved

    def __getitem__(self, key: str) -> str:
        return self._given[key]

    def get(self, key: str) -> str:
        """The name of `key`, or the key itself where it has none."""
        return self._given.get(key, key)

    def __contains__(self, key: str) -> bool:
        return key in self._given
