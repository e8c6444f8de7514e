"""How far emitted code is from what the rule means: both backends against the reference, backprop against autograd."""

from __future__ import annotations

from importlib import import_module
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.rules import emitted
from benchmarks.targets import Measured
from ruledsl.verification.cases import reference_layer
from ruledsl.verification.executor import TOLERANCE, compare
from ruledsl.verification.geometries import GEOMETRIES, Geometry
from ruledsl_torch import convert
from ruledsl_torch.executor import layer_of

Precision = Literal["float32", "float64"]
PRECISIONS: tuple[Precision, ...] = ("float32", "float64")
BACKENDS = ("torch", "jax")


def measure() -> dict[str, Measured]:
    """The largest deviation that was found, relative to the largest entry, and where."""
    found = {f"backprop {precision}": against_autograd(precision) for precision in PRECISIONS}
    for backend in BACKENDS:
        for precision in PRECISIONS:
            found[f"{backend} {precision}"] = against_reference(backend, precision)
    return found


def against_reference(backend: str, precision: Precision) -> Measured:
    """Every output of every phase of every rule that the backend emits, on every geometry.

    Where an equation cancels so much that the reference itself moves as far in the same precision, no executor can be
    nearer: such outputs are left out of the number, and the note says how many and how far.
    """
    executor = import_module(f"ruledsl_{backend}.executor").executor
    rules = emitted(backend)
    worst, where, cancelling = -1.0, "", [0.0]
    for name, (rule, program) in rules.items():
        for geometry in GEOMETRIES:
            for found in compare(program, rule.lowered, executor, geometry, precision):
                if found.within and found.amount > TOLERANCE[precision]:
                    cancelling.append(found.amount)
                elif found.amount > worst:
                    worst, where = found.amount, f"{name}, {found.output}, {found.geometry}"
    note = f"{len(rules)} rules, {len(GEOMETRIES)} geometries, worst: {where}"
    if len(cancelling) > 1:
        note += f"; {len(cancelling) - 1} outputs cancel, up to {max(cancelling):.1e}"
    return Measured(worst, note)


def against_autograd(precision: Precision) -> Measured:
    """Gradients of input, weight and bias, of a layer that follows `backprop` and of the same layer without a rule."""
    worst, where = -1.0, ""
    for geometry in GEOMETRIES:
        layer, x = _layer(geometry, getattr(torch, precision))
        plain = _gradients(layer, x)
        ruled = _gradients(convert(layer, "backprop"), x)
        for name, gradient in plain.items():
            distance = float((ruled[name] - gradient).norm() / gradient.norm())
            if not distance <= worst:  # a NaN is the worst
                worst, where = distance, f"gradient of {name}, {geometry}"
    return Measured(worst, f"{len(GEOMETRIES)} geometries, worst: {where}")


def _gradients(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    names = ["x", *dict(layer.named_parameters())]
    loss = torch.sin(layer(x)).sum()
    return dict(zip(names, torch.autograd.grad(loss, [x, *layer.parameters()]), strict=True))


def _layer(geometry: Geometry, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """The layer, and an input [4, *pre] that wants a gradient."""
    torch.manual_seed(0)
    x = torch.randn(4, *reference_layer(geometry).pre_shape, dtype=dtype, requires_grad=True)
    return layer_of(geometry, dtype=dtype), x
