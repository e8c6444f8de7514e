"""Random layers: everything that the functions of a rule can read, in the reference's layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from ruledsl.ir.equations import Equations
from ruledsl.ir.types import OUT, Type
from ruledsl.reference.maps import Convolution, Dense, Linear
from ruledsl.verification.geometries import DenseGeometry, Geometry

BATCH, CLASSES = 3, 4
DOWNSTREAM: tuple[tuple[int, ...], ...] = ((5,), (2, 3, 3))
SCALARS = {
    "step": 7.0,
    "epoch": 2.0,
    "progress": 0.4,
    "lr": 0.05,
    "classes": float(CLASSES),
    "batch_size": float(BATCH),
}


def reference_layer(geometry: Geometry) -> Linear:
    """The reference's linear map for a geometry."""
    if isinstance(geometry, DenseGeometry):
        return Dense(**geometry.arguments())
    return Convolution(**geometry.arguments())


def stored_shape(type: Type, layer: Linear) -> tuple[int, ...]:
    """The shape in which a tensor of a type is stored, in the reference's layout.

    Maps between pre and post as the forward kernel, maps from `out` as [classes, *space]; not for maps from `post[k]`,
    of which there is one for every layer downstream.
    """
    own = {"pre": layer.pre_shape, "post": layer.post_shape, "out": (CLASSES,)}
    if type.kind in ("scalar", "parameter"):
        return () if type.kind == "scalar" else layer.kernel_shape
    assert type.target is not None
    if type.kind == "vector":
        return own[type.target.name][:1]
    assert type.source is not None
    if OUT in (type.source, type.target):
        inner = type.target if type.source == OUT else type.source
        return (CLASSES, *own[inner.name])
    return layer.kernel_shape


def random_values(equations: Equations, layer: Linear, rng: np.random.Generator) -> dict[str, Any]:
    """Signals, tensors and scalars by name; `delta_k` and maps from `post[k]` as lists."""
    shapes = {"x": layer.pre_shape, "delta": layer.post_shape, "e": (CLASSES,)}
    values: dict[str, Any] = {name: rng.normal(size=(BATCH, *shape)) for name, shape in shapes.items()}
    values["target"] = np.eye(CLASSES)[rng.integers(CLASSES, size=BATCH)]
    values["delta_k"] = [rng.normal(size=(BATCH, *shape)) for shape in DOWNSTREAM]
    for name, declared in equations.tensors.items():
        if declared.type.source is not None and declared.type.source.index:
            values[name] = [rng.normal(size=(*shape, *layer.pre_shape)) for shape in DOWNSTREAM]
        else:
            values[name] = rng.normal(size=stored_shape(declared.type, layer))
    if equations.kind == "optimizer":
        values["g"] = rng.normal(size=layer.kernel_shape)
        for name, declared in equations.tensors.items():
            if declared.kind == "state":
                values[name] = np.abs(values[name])  # averages of squares are never negative
    else:
        values["u"] = layer.apply(values["W"], values["x"]) + layer.spread(values["b"])
    values.update(SCALARS, fan_in=layer.fan_in, fan_out=layer.fan_out)
    values.update(equations.parameters)
    values.update(phi=np.tanh, dphi=lambda v: 1 - np.tanh(v) ** 2)
    return values
