"""The functions of a compiled rule on one layer of NumPy arrays: JAX's word against the reference's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from ruledsl.program import Program
from ruledsl.verification import sequences
from ruledsl.verification.executor import Precision, Results, collect
from ruledsl.verification.geometries import ConvGeometry, DenseGeometry, Geometry, SequenceGeometry
from ruledsl_jax import layouts
from ruledsl_jax.dependence import Dependence
from ruledsl_jax.devices import keep_programs
from ruledsl_jax.linear import Convolution, Dense, Linear

ACTIVATIONS: dict[str, tuple[Any, Any]] = {
    "tanh": (jnp.tanh, lambda v: 1 - jnp.tanh(v) ** 2),
    "relu": (jax.nn.relu, lambda v: (v > 0).astype(v.dtype)),
    "sigmoid": (jax.nn.sigmoid, lambda v: jax.nn.sigmoid(v) * (1 - jax.nn.sigmoid(v))),
}
_ACTIVITY = ("x", "u", "delta", "delta_k")


def prepare() -> None:
    """Before many small programs are compiled, in a process that does nothing else: the next one finds them."""
    keep_programs(0.0)


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
    if isinstance(geometry, SequenceGeometry):
        values = sequences.to_backend(program, geometry, values)
    spaces = sequences.spaces_of(program)
    with jax.enable_x64(precision == "float64"):
        computed = compute(arguments_of(program, geometry, values, precision))
        results = {name: np.asarray(value) for name, value in computed.items()}
    back: Results = {}
    for name, value in results.items():
        if name == "send":
            value = np.broadcast_to(value, _activity_to_jax(geometry, name, values["x"]).shape)
            back[name] = value if isinstance(geometry, SequenceGeometry) else layouts.activity_from_jax(value)
        else:
            target = name.split(" ")[1]
            full = np.shape(tensor_to_jax(geometry, spaces[target], values[target]))
            back[name] = tensor_from_jax(geometry, spaces[target], np.broadcast_to(value, full))
    return sequences.from_backend(program, geometry, back) if isinstance(geometry, SequenceGeometry) else back


def dependent(
    program: Program, phase: str, geometry: Geometry, values: Mapping[str, Any], precision: Precision, name: str
) -> set[str]:
    """The outputs of a phase that depend on the argument `name`, as the jaxpr says: no value is tried."""
    if isinstance(geometry, SequenceGeometry):
        values = sequences.to_backend(program, geometry, values)
    with jax.enable_x64(precision == "float64"):
        arguments = arguments_of(program, geometry, values, precision)

        def outputs(value: Any) -> Results:
            return collect(program, phase, {**arguments, name: value})

        traced, shapes = jax.make_jaxpr(outputs, return_shape=True)(arguments[name])
    found = Dependence().through(traced.jaxpr, [frozenset((name,)) for _ in traced.jaxpr.invars])
    return {output for output, reads in zip(sorted(shapes), found, strict=True) if reads}


def linear_map(geometry: Geometry) -> Linear:
    """The linear map of a geometry; a transposed convolution is one of x with zeros between its entries."""
    if isinstance(geometry, SequenceGeometry):
        return Dense(geometry.units_in, geometry.units_out, geometry.positions)
    sizes = geometry.arguments()
    if isinstance(geometry, DenseGeometry):
        return Dense(**sizes)
    more = sizes.pop("output_padding")
    if sizes.pop("transposed"):
        reach = [(size - 1) * step for size, step in zip(sizes["kernel_size"], sizes["dilation"], strict=True)]
        ends = zip(reach, sizes["padding"], more, strict=True)
        sizes["padding"] = tuple((far - pad, far - pad + end) for far, pad, end in ends)
        sizes["input_dilation"] = sizes.pop("stride")
    return Convolution(**sizes)


def tensor_to_jax(geometry: Geometry, space: Sequence[str], value: Any) -> Any:
    """A tensor of a rule in JAX's layout."""
    value = _turned(geometry, space, value)
    return layouts.tensor_to_jax(space, value, _own_axes(geometry), _moves(geometry))


def tensor_from_jax(geometry: Geometry, space: Sequence[str], value: Any) -> Any:
    """The inverse of `tensor_to_jax`."""
    return _turned(geometry, space, layouts.tensor_from_jax(space, value, _own_axes(geometry), _moves(geometry)))


def _turned(geometry: Geometry, space: Sequence[str], value: Any) -> Any:
    """The kernel of a transposed convolution as that of a convolution, and back; all else as it is."""
    if {*space} == {"pre", "post"} and isinstance(geometry, ConvGeometry) and geometry.transposed:
        return layouts.turned(value, geometry.groups)
    return value


def _own_axes(geometry: Geometry) -> int:
    return len(linear_map(geometry).pre_shape)


def _moves(geometry: Geometry) -> tuple[bool, bool]:
    return True, linear_map(geometry).channels_move


def _activity_to_jax(geometry: Geometry, name: str, value: Any) -> Any:
    own = name != "delta_k"
    return value if own and isinstance(geometry, SequenceGeometry) else layouts.activity_to_jax(value)


def arguments_of(
    program: Program, geometry: Geometry, values: Mapping[str, Any], precision: Precision
) -> dict[str, Any]:
    """Everything that the functions of a program are called with, in JAX's layout."""
    spaces = sequences.spaces_of(program)
    static = {
        "layer": linear_map(geometry),
        **dict(zip(("phi", "dphi"), ACTIVATIONS[values.get("activation", "tanh")], strict=True)),
    }
    dtype = jnp.float64 if precision == "float64" else jnp.float32
    dynamic = {name: _to_jax(name, v, spaces, geometry, dtype) for name, v in values.items() if name not in static}
    return {**dynamic, **static}


def _to_jax(name: str, value: Any, spaces: Mapping[str, Sequence[str]], geometry: Geometry, dtype: Any) -> Any:
    if isinstance(value, list):
        return [_to_jax(name, each, spaces, geometry, dtype) for each in value]
    if not isinstance(value, np.ndarray | np.generic):
        return value
    if name in spaces:
        value = tensor_to_jax(geometry, spaces[name], value)
    elif name in _ACTIVITY:
        value = _activity_to_jax(geometry, name, value)
    return jnp.asarray(value, dtype=dtype)
