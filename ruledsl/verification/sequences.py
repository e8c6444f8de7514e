"""Values of a dense layer in several positions, between the reference's layout and that of both backends.

To the reference it is a convolution with a kernel of one: [batch, units, *positions] and [out, in, 1]. The backends
have [batch, *positions, units] and [out, in].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ruledsl.program import Program
from ruledsl.verification.executor import Results
from ruledsl.verification.geometries import SequenceGeometry

ACTIVITIES = ("x", "u", "delta")
KERNEL = {"pre", "post"}


def to_backend(program: Program, geometry: SequenceGeometry, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a phase of a program is called with."""
    spaces = spaces_of(program)
    found = dict(values)
    for name, value in values.items():
        if name in ACTIVITIES:
            found[name] = np.moveaxis(value, 1, -1)
        elif name in spaces:
            each = [_to(spaces[name], one, geometry) for one in (value if isinstance(value, list) else [value])]
            found[name] = each if isinstance(value, list) else each[0]
    return found


def from_backend(program: Program, geometry: SequenceGeometry, results: Mapping[str, Any]) -> Results:
    """What it computed."""
    spaces = spaces_of(program)
    return {
        name: np.moveaxis(value, -1, 1) if name == "send" else _from(spaces[name.split(" ")[1]], value, geometry)
        for name, value in results.items()
    }


def spaces_of(program: Program) -> dict[str, Sequence[str]]:
    """By tensor, where it lives; what an optimizer moves is like a kernel."""
    spaces = {tensor.name: tensor.space for tensor in program.tensors}
    return {"g": ("pre", "post"), **{k: ("pre", "post") if v == ("p",) else v for k, v in spaces.items()}}


def _to(space: Sequence[str], value: Any, geometry: SequenceGeometry) -> Any:
    if {*space} == KERNEL:
        return value.reshape(value.shape[:2])
    return np.moveaxis(value, -1 - len(geometry.positions), -1) if len(space) == 2 else value


def _from(space: Sequence[str], value: Any, geometry: SequenceGeometry) -> Any:
    if {*space} == KERNEL:
        return value.reshape(*value.shape, *(1 for _ in geometry.positions))
    return np.moveaxis(value, -1, -1 - len(geometry.positions)) if len(space) == 2 else value
