"""What the templates of every backend show of a binding: calls, shapes, schedules."""

from __future__ import annotations

from collections.abc import Callable

from ruledsl.emit.binding import Call, is_family
from ruledsl.emit.expressions import constant
from ruledsl.emit.functions import Tensor
from ruledsl.emit.layout import quoted
from ruledsl.ir.phases import TASK, Schedule

FROM_LAYER = {"fan_in": "layer.fan_in", "fan_out": "layer.fan_out"}
"""What functions are given of a linear map."""
LAYER = frozenset({"layer", *FROM_LAYER})
PHI = frozenset({"phi", "dphi", "y"})


def called(call: Call, given: Callable[[str], str] = lambda name: FROM_LAYER.get(name, name)) -> str:
    """`function(arguments)`; `given`: how an argument is written."""
    return f"{call.function}({', '.join(map(given, call.arguments))})"


def shape_of(tensor: Tensor, family: str, far: str) -> str:
    """The shape of a tensor of a layer: `family` of one for every layer downstream; `far` of one over the output."""
    match tensor.space:
        case ():
            return "()"
        case ("pre", "post") | ("post", "pre"):
            return "layer.kernel_shape"
        case ("pre",):
            return "(layer.units_in,)"
        case ("post",):
            return "(layer.units_out,)"
    return family if is_family(tensor) else far


def inner_space(tensor: Tensor) -> str:
    """The side of the layer that a map from far away ends at; empty for one number per output."""
    return next((space for space in tensor.space if space in ("pre", "post")), "")


def scheduled(schedule: Schedule) -> str:
    """A schedule as Python; empty for one that says nothing."""
    first = ", ".join(f"({constant(epochs)}, {quoted(names)})" for epochs, names in schedule.first)
    parts = [f"first=({first},)"] if first else []
    parts += [f"each={quoted(schedule.each)}"] if schedule.each not in ((), (TASK,)) else []
    parts += [f"alternate={quoted(schedule.alternate)}"] if schedule.alternate else []
    return f"Schedule({', '.join(parts)})" if parts else ""
