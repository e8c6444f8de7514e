"""What networks return beside a tensor: tuples, lists, dictionaries, dataclasses, and these in each other."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

Path = tuple[Any, ...]  # keys, indices and names of attributes, from the outside in


def parts(value: Any, outermost: bool = False) -> dict[Any, Any]:
    """What a structure consists of, by key, index or field; nothing for anything else.

    outermost  whether any other object is a structure too, of its attributes
    """
    if isinstance(value, Mapping):
        return dict(value.items())
    if isinstance(value, tuple | list):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(vars(value)) if outermost and not isinstance(value, Tensor) and hasattr(value, "__dict__") else {}


def with_parts(value: Any, changed: Mapping[Any, Any]) -> Any:
    """A structure of the same type with some parts changed; the given one stays as it was."""
    if isinstance(value, Mapping):
        everything = {**value, **changed}
        if type(value) is dict:
            return everything
        if dataclasses.is_dataclass(value):  # as the ModelOutput of transformers: its constructor takes the keys
            return type(value)(**everything)
        made: Any = copy.copy(value)
        made.update(changed)
        return made
    if isinstance(value, tuple | list):
        items = [changed.get(index, item) for index, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and all(field.init for field in dataclasses.fields(value)):
        return type(value)(**{**parts(value), **changed})  # which torch.compile follows, as it does no copy
    made = copy.copy(value)
    for name, part in changed.items():
        object.__setattr__(made, name, part)  # frozen dataclasses too: the copy is nobody's yet
    return made


def mapped(function: Callable[[Any], Any], value: Any, outermost: bool = True) -> Any:
    """A structure with a function of each of its leaves in their places."""
    inside = parts(value, outermost)
    if not inside:
        return function(value)
    return with_parts(value, {key: mapped(function, part, outermost=False) for key, part in inside.items()})


def tensors(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """The tensors of a structure, and where they stand."""
    if isinstance(value, Tensor):
        yield path, value
    for key, part in parts(value, outermost=not path).items():
        yield from tensors(part, (*path, key))


def part_at(value: Any, path: Path) -> Any:
    """What stands at a path. Raises LookupError where nothing does."""
    for key in path:
        counted = isinstance(value, Sequence) and isinstance(key, int) and -len(value) <= key < len(value)
        if counted or (isinstance(value, Mapping) and key in value):
            value = value[key]
        elif isinstance(key, str) and hasattr(value, key):
            value = getattr(value, key)
        else:
            raise LookupError(key)
    return value


def with_part_at(value: Any, path: Path, part: Any) -> Any:
    """A structure with something else at a path."""
    if not path:
        return part
    key, *rest = path
    changed = with_part_at(part_at(value, (key,)), tuple(rest), part)
    return with_parts(value, {key % len(value) if isinstance(key, int) else key: changed})
