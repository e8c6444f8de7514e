"""The functions of a compiled rule on one layer of NumPy arrays: PyTorch's word against the reference's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ruledsl.program import Program
from ruledsl.verification.executor import Precision, Results, collect
from ruledsl.verification.geometries import DenseGeometry, Geometry
from ruledsl_torch.linear import Conv2d, Dense


def executor(
    program: Program, phase: str, geometry: Geometry, values: Mapping[str, Any], precision: Precision
) -> Results:
    """See `ruledsl.verification.executor.Executor`. PyTorch's layout is the reference's."""
    dtype = torch.float32 if precision == "float32" else torch.float64
    make = Dense if isinstance(geometry, DenseGeometry) else Conv2d
    arguments = {name: _tensor(value, dtype) for name, value in values.items()}
    arguments.update(layer=make(**geometry.arguments()), phi=torch.tanh, dphi=lambda v: 1 - torch.tanh(v) ** 2)
    for name in ("step", "epoch", "progress", "lr"):
        arguments[name] = torch.tensor(values[name], dtype=torch.float64)
    results = collect(program, phase, arguments)
    shapes = {"send": np.shape(values["x"])} if "x" in values else {}
    return {
        name: np.broadcast_to(np.asarray(value), shapes.get(name, np.shape(values.get(_target(name)))))
        for name, value in results.items()
    }


def _target(output: str) -> str:
    return output.split(" ")[1] if " " in output else output


def _tensor(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [_tensor(v, dtype) for v in value]
    return torch.tensor(value, dtype=dtype) if isinstance(value, np.ndarray | np.generic) else value
