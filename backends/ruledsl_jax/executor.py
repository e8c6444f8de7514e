"""The functions of a compiled rule on one layer of NumPy arrays: JAX's word against the reference's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from ruledsl.program import Program
from ruledsl.verification.executor import Precision, Results, collect
from ruledsl.verification.geometries import DenseGeometry, Geometry
from ruledsl_jax import layouts
from ruledsl_jax.linear import Conv2d, Dense

_ACTIVITY = ("x", "u", "delta")


def executor(
    program: Program, phase: str, geometry: Geometry, values: Mapping[str, Any], precision: Precision
) -> Results:
    """See `ruledsl.verification.executor.Executor`.

    Operation by operation, not under `jax.jit`: XLA's fusion changes the rounding of badly conditioned rules a
    hundredfold, which says nothing of the emitted code.
    """
    return _executed(program, phase, geometry, values, precision, lambda arguments: collect(program, phase, arguments))


def jitted(
    program: Program, phase: str, geometry: Geometry, values: Mapping[str, Any], precision: Precision
) -> Results:
    """The same with all functions of a phase compiled together."""

    def compute(arguments: dict[str, Any]) -> Results:
        arrays = {name: value for name, value in arguments.items() if isinstance(value, jax.Array | list)}
        rest = {name: value for name, value in arguments.items() if name not in arrays}
        found: Results = jax.jit(lambda given: collect(program, phase, {**rest, **given}))(arrays)
        return found

    return _executed(program, phase, geometry, values, precision, compute)


def _executed(
    program: Program,
    phase: str,
    geometry: Geometry,
    values: Mapping[str, Any],
    precision: Precision,
    compute: Callable[[dict[str, Any]], Results],
) -> Results:
    conv = not isinstance(geometry, DenseGeometry)
    spaces = {tensor.name: tensor.space for tensor in program.tensors}
    with jax.enable_x64(precision == "float64"):
        computed = compute(_arguments(program, geometry, values, precision))
        results = {name: np.asarray(value) for name, value in computed.items()}
    back: Results = {}
    for name, value in results.items():
        if name == "send":
            value = np.broadcast_to(value, _moved(values["x"]).shape if conv else values["x"].shape)
            back[name] = layouts.activity_from_jax(value)
        else:
            target = name.split(" ")[1]
            space = spaces[target] if spaces[target] != ("p",) else ("pre", "post")
            full = np.shape(layouts.tensor_to_jax(space, values[target], conv))
            back[name] = layouts.tensor_from_jax(space, np.broadcast_to(value, full), conv)
    return back


def dependent(
    program: Program, phase: str, geometry: Geometry, values: Mapping[str, Any], precision: Precision, name: str
) -> set[str]:
    """The outputs of a phase that depend on the argument `name`, as the jaxpr says: no value is tried."""
    with jax.enable_x64(precision == "float64"):
        arguments = _arguments(program, geometry, values, precision)

        def outputs(value: Any) -> Results:
            return collect(program, phase, {**arguments, name: value})

        traced, shapes = jax.make_jaxpr(outputs, return_shape=True)(arguments[name])
    reached: set[Any] = set(traced.jaxpr.invars)
    for equation in traced.jaxpr.eqns:
        if any(not isinstance(v, jax.extend.core.Literal) and v in reached for v in equation.invars):
            reached.update(equation.outvars)
    last = [not isinstance(v, jax.extend.core.Literal) and v in reached for v in traced.jaxpr.outvars]
    return {output for output, reads in zip(sorted(shapes), last, strict=True) if reads}


def _arguments(program: Program, geometry: Geometry, values: Mapping[str, Any], precision: Precision) -> dict[str, Any]:
    """Everything that the functions of a program are called with, in JAX's layout."""
    conv = not isinstance(geometry, DenseGeometry)
    make = Conv2d if conv else Dense
    spaces = {tensor.name: tensor.space for tensor in program.tensors}
    static = {
        "layer": make(**geometry.arguments()),  # type: ignore[arg-type]
        "phi": jnp.tanh,
        "dphi": lambda v: 1 - jnp.tanh(v) ** 2,
    }
    dtype = jnp.float64 if precision == "float64" else jnp.float32
    dynamic = {name: _to_jax(name, v, spaces, conv, dtype) for name, v in values.items() if name not in static}
    return {**dynamic, **static}


def _moved(value: Any) -> Any:
    return layouts.activity_to_jax(value)


def _to_jax(name: str, value: Any, spaces: Mapping[str, tuple[str, ...]], conv: bool, dtype: Any) -> Any:
    if isinstance(value, list):
        if name in spaces:
            return [jnp.asarray(_family(v, conv), dtype=dtype) for v in value]
        return [jnp.asarray(_moved(v) if v.ndim > 2 else v, dtype=dtype) for v in value]
    if not isinstance(value, np.ndarray | np.generic):
        return value
    if name in spaces:
        space = spaces[name] if spaces[name] != ("p",) else ("pre", "post")
        return jnp.asarray(layouts.tensor_to_jax(space, value, conv), dtype=dtype)
    if name == "g":
        return jnp.asarray(layouts.kernel_to_jax(value), dtype=dtype)
    return jnp.asarray(_moved(value) if name in _ACTIVITY and conv else value, dtype=dtype)


def _family(value: Any, conv: bool) -> Any:
    return layouts.broadcast_map_to_jax(value, 3 if conv else 1)
