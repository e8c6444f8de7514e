"""Modules that are several weight layers in one: before they follow a rule they are opened, into layers of known kinds.

A composite is one row: the class that computes the same by sub-layers of the kinds in `linear.KINDS`, what makes a
module one of that class, in place, and the inverse. What it holds stays its own: the same Parameter objects under the
same names, so that checkpoints and optimizers made before keep working. Sub-layers read theirs through a `Projection`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn

from ruledsl_torch.attention import MultiheadAttention, close_attention, open_attention


class Composite(NamedTuple):
    """How a class of modules is opened.

    opened  the class of an open one: a subclass, with the same output
    open    make a module one of it, in place; close: the inverse, when the sub-layers are plain ones again
    """

    opened: type[nn.Module]
    open: Callable[[Any], None]
    close: Callable[[Any], None]


COMPOSITES: dict[type[nn.Module], Composite] = {
    nn.MultiheadAttention: Composite(MultiheadAttention, open_attention, close_attention),
}
"""By torch's class. Subclasses compute something of their own, and have rows of their own."""


def is_open(module: nn.Module) -> bool:
    """Whether a module is a composite whose weights belong to its sub-layers."""
    return any(type(module) is row.opened for row in COMPOSITES.values())


def is_closed(module: nn.Module) -> bool:
    """Whether a module is one that could not be opened: a subclass, or one with a forward of its own."""
    return any(isinstance(module, kind) for kind in COMPOSITES) and not is_open(module)


@contextmanager
def opened(net: nn.Module) -> Iterator[None]:
    """Every composite of a network opened; closed again where what follows raises."""
    changed: list[tuple[Composite, nn.Module]] = []
    try:
        for module in list(net.modules()):
            row = COMPOSITES.get(type(module))
            if row is not None and "forward" not in module.__dict__:
                row.open(module)
                changed.append((row, module))
        yield
    except BaseException:  # whatever it was is raised again
        for row, module in reversed(changed):
            row.close(module)
        raise


def close(net: nn.Module) -> None:
    """Every composite of a network whose sub-layers are plain ones, as it was before."""
    rows = {row.opened: row for row in COMPOSITES.values()}
    for module in list(net.modules()):
        row = rows.get(type(module))
        if row is not None:
            row.close(module)
