"""The functions of a compiled rule on one layer of NumPy arrays: PyTorch's word against the reference's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from ruledsl.program import Program
from ruledsl.verification import sequences
from ruledsl.verification.executor import Precision, Results, collect
from ruledsl.verification.geometries import ConvGeometry, DenseGeometry, Geometry, SequenceGeometry
from ruledsl_torch.linear import KINDS

CONVOLUTIONS = {
    False: (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    True: (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
}
ACTIVATIONS: dict[str, tuple[Any, Any]] = {
    "tanh": (torch.tanh, lambda v: 1 - torch.tanh(v) ** 2),
    "relu": (torch.relu, lambda v: (v > 0).to(v.dtype)),
    "sigmoid": (torch.sigmoid, lambda v: torch.sigmoid(v) * (1 - torch.sigmoid(v))),
}


def executor(
    program: Program, phase: str, geometry: Geometry, values: Mapping[str, Any], precision: Precision
) -> Results:
    """See `ruledsl.verification.executor.Executor`. PyTorch's layout is the reference's, but for sequences."""
    if isinstance(geometry, SequenceGeometry):
        values = sequences.to_backend(program, geometry, values)
    dtype = torch.float32 if precision == "float32" else torch.float64
    arguments = {name: _tensor(value, dtype) for name, value in values.items()}
    phi, dphi = ACTIVATIONS[values.get("activation", "tanh")]
    arguments.update(layer=linear_map(geometry), phi=phi, dphi=dphi)
    for name in ("step", "epoch", "progress", "lr"):
        arguments[name] = torch.tensor(values[name], dtype=torch.float64)
    results = collect(program, phase, arguments)
    shapes = {"send": np.shape(values["x"])} if "x" in values else {}
    found = {
        name: np.broadcast_to(np.asarray(value), shapes.get(name, np.shape(values.get(_target(name)))))
        for name, value in results.items()
    }
    return sequences.from_backend(program, geometry, found) if isinstance(geometry, SequenceGeometry) else found


def _target(output: str) -> str:
    return output.split(" ")[1] if " " in output else output


def _tensor(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [_tensor(v, dtype) for v in value]
    return torch.tensor(value, dtype=dtype) if isinstance(value, np.ndarray | np.generic) else value


def layer_of(geometry: Geometry, **options: Any) -> nn.Module:
    """PyTorch's own layer of a geometry; options are those of its class: bias, device, dtype."""
    if isinstance(geometry, DenseGeometry | SequenceGeometry):
        return nn.Linear(geometry.units_in, geometry.units_out, **options)
    sizes = geometry.arguments()
    del sizes["input_size"], sizes["transposed"]
    if not geometry.transposed:
        del sizes["output_padding"]
    kind: Any = CONVOLUTIONS[geometry.transposed][len(geometry.kernel_size) - 1]
    module: nn.Module = kind(sizes.pop("channels_in"), sizes.pop("channels_out"), **sizes, **options)
    return module


@cache
def linear_map(geometry: Geometry) -> Any:
    """The linear map of a geometry."""
    module = layer_of(geometry, device="meta")
    x = None if not isinstance(geometry, ConvGeometry) else torch.empty((1, 1, *geometry.input_size), device="meta")
    return KINDS[type(module)][0](module, x)
