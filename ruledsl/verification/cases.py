"""Random layers: everything that the functions of a rule can read, in the reference's layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ruledsl.analysis.typed import Interval
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
    values.update(zip(("phi", "dphi"), ACTIVATIONS["tanh"], strict=True), activation="tanh")
    return values


def varied(
    values: Mapping[str, Any], equations: Equations, intervals: Mapping[str, Interval | None], rng: np.random.Generator
) -> dict[str, Any]:
    """The same values with parameters drawn from where they may lie, at another time, with another activation."""
    new = dict(values)
    for name, value in equations.parameters.items():
        if not isinstance(value, bool):
            new[name] = _drawn(float(value), intervals.get(name), rng)
    steps = float(rng.integers(0, 12))
    new.update(step=steps, epoch=float(rng.integers(0, 5)), progress=float(rng.uniform()))
    activation = str(rng.choice(list(ACTIVATIONS)))
    new.update(zip(("phi", "dphi"), ACTIVATIONS[activation], strict=True), activation=activation)
    return new


def _drawn(value: float, interval: Interval | None, rng: np.random.Generator) -> float:
    if interval is None:
        return value
    low, high = interval.low, interval.high
    if np.isfinite(low) and np.isfinite(high):
        return float(low + (high - low) * rng.uniform(0.05, 0.95))
    size = float(np.exp(rng.normal(-1.0, 1.0)))
    if np.isfinite(low):
        return float(low + size)
    return float(high - size) if np.isfinite(high) else float(rng.normal())


def _sigmoid(v: Any) -> Any:
    return 1 / (1 + np.exp(-v))


ACTIVATIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "tanh": (np.tanh, lambda v: 1 - np.tanh(v) ** 2),
    "relu": (lambda v: np.maximum(v, 0.0), lambda v: (v > 0).astype(v.dtype)),
    "sigmoid": (_sigmoid, lambda v: _sigmoid(v) * (1 - _sigmoid(v))),
}
"""By name: the function and its derivative. Executors have the same."""
