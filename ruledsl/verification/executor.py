"""What an executor is: something that computes a phase of a rule in one layer, and how two of them are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ruledsl.analysis.typed import Interval
from ruledsl.ir.equations import Equations
from ruledsl.program import INIT, Program
from ruledsl.reference import run_phase
from ruledsl.verification.cases import random_values, reference_layer, varied
from ruledsl.verification.geometries import Geometry

Precision = Literal["float32", "float64"]
Results = dict[str, Any]
"""`send`, `grad W by task`, `next B`: arrays in the reference's layout."""

Executor = Callable[[Program, str, Geometry, Mapping[str, Any], Precision], Results]
"""`executor(program, phase, geometry, values, precision)`: the functions of one phase, called as a runtime calls them.

`values` are those of `ruledsl.verification.cases.random_values`, in the reference's layout; so are the results.
"""


TOLERANCE: Mapping[Precision, float] = {"float32": 1e-5, "float64": 1e-10}
"""How far two executors may be apart, relative to the largest entry."""

_FINER = float(np.finfo(np.float64).eps / np.finfo(np.float32).eps)
_MARGIN, _STEP = 16.0, 1e-2


def reference_results(
    equations: Equations, phase: str, geometry: Geometry, values: Mapping[str, Any], dtype: Any = np.float64
) -> Results:
    """What the functions of a phase should give: the reference interpreter on the equations as they were lowered."""
    with np.errstate(all="ignore"):  # infinities are compared like everything else
        outputs = run_phase(equations, phase, reference_layer(geometry), values, dtype)
    results: Results = {} if outputs.send is None else {"send": outputs.send}
    results.update({f"grad {target} by {by}": value for (target, by), value in outputs.grads.items()})
    results.update({f"next {target}": value for target, value in outputs.assigned.items()})
    return results


def deviation(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest entry (to 1, where all are smaller)."""
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if found.shape != expected.shape:
        return float("inf")
    if found.size == 0:
        return 0.0
    if not np.array_equal(np.isnan(found), np.isnan(expected)):
        return float("inf")
    scale = max(1.0, float(np.nanmax(np.abs(np.where(np.isfinite(expected), expected, 0.0)))))
    with np.errstate(invalid="ignore"):
        difference = np.where(found == expected, 0.0, np.abs(found - expected))
    return float(np.nanmax(np.where(np.isnan(expected), 0.0, difference))) / scale


@dataclass(frozen=True)
class Deviation:
    """How far a backend is from the reference in one output of one phase.

    `allowed` is the tolerance, or more where the equation itself is badly conditioned: where the reference moves far
    when it is computed in float32, or when its inputs move by the rounding of float32.
    """

    phase: str
    output: str
    geometry: str
    amount: float
    allowed: float

    @property
    def within(self) -> bool:
        """Whether the two agree."""
        return self.amount <= self.allowed


def compare(
    program: Program,
    lowered: Equations,
    executor: Executor,
    geometry: Geometry,
    precision: Precision,
    seed: int = 0,
    intervals: Mapping[str, Interval | None] | None = None,
) -> list[Deviation]:
    """Every output of every phase on one random layer; with intervals, parameters drawn from them."""
    values = random_values(lowered, reference_layer(geometry), np.random.default_rng(seed))
    if intervals is not None:
        values = varied(values, lowered, intervals, np.random.default_rng(seed))
    if precision == "float32":
        values = {name: _rounded(value) for name, value in values.items()}
    found: list[Deviation] = []
    named = python_names(program, lowered)
    for phase in dict.fromkeys(f.phase for f in program.functions):
        if phase == INIT:
            continue
        expected = reference_results(lowered, phase, geometry, values)
        coarse = reference_results(lowered, phase, geometry, values, np.float32)
        shaken = reference_results(lowered, phase, geometry, _shaken(values, seed), np.float32)
        results = executor(program, phase, geometry, renamed(values, named), precision)
        expected, coarse, shaken = (_outputs(r, named) for r in (expected, coarse, shaken))
        for output in sorted(expected.keys() | results.keys()):
            missing = output not in expected or output not in results
            amount = float("inf") if missing else deviation(results[output], expected[output])
            allowed = TOLERANCE[precision]
            if not missing:
                worst = max(deviation(other[output], expected[output]) for other in (coarse, shaken))
                smooth = (
                    worst < _STEP
                )  # the sign of what is nearly zero jumps as far for small changes as for large ones
                allowed = max(allowed, _MARGIN * worst * (_FINER if smooth and precision == "float64" else 1))
            found.append(Deviation(phase, output, str(geometry), amount, allowed))
    return found


def python_names(program: Program, equations: Equations) -> dict[str, str]:
    """What a rule's tensors and parameters are called in the emitted module, where Python has taken their names."""
    tensors = zip(equations.tensors, (tensor.name for tensor in program.tensors), strict=True)
    return {**dict(tensors), **dict(zip(equations.parameters, program.parameters, strict=True))}


def renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Values by the names of the emitted module."""
    return {names.get(name, name): value for name, value in values.items()}


def _outputs(results: Results, names: Mapping[str, str]) -> Results:
    """`next shape` is the output of what the module calls `shape_`."""
    split = {output: output.split(" ") for output in results}
    return {
        " ".join([words[0], names.get(words[1], words[1]), *words[2:]]) if len(words) > 1 else output: results[output]
        for output, words in split.items()
    }


def _rounded(value: Any) -> Any:
    """Inputs that float32 can hold, so that only the computation differs."""
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return value.astype(np.float32).astype(np.float64) if isinstance(value, np.ndarray) else value


def _shaken(values: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Every array moved by what float32 rounds away."""
    rng = np.random.default_rng(seed)
    size = float(np.finfo(np.float32).eps)

    def shake(value: Any) -> Any:
        if isinstance(value, list):
            return [shake(v) for v in value]
        return value * (1 + size * rng.uniform(-1, 1, np.shape(value))) if isinstance(value, np.ndarray) else value

    return {name: shake(value) for name, value in values.items()}


def collect(program: Program, phase: str, arguments: dict[str, Any]) -> Results:
    """Call the functions of a phase one after the other, terms for their readers; the same for every backend."""
    results: Results = {}
    for function in program.of_phase(phase):
        if function.role in ("draw", "drive", "init"):
            continue
        output = f"grad {function.target} by {function.optimizer}"
        summed = {name: results[output] for name in function.arguments if name not in arguments}
        given = {name: arguments[name] for name in function.arguments if name in arguments}
        value = getattr(program.module, function.name)(**given, **summed)
        if function.role == "term":
            arguments[function.target or ""] = value
        elif function.role == "send":
            results["send"] = value
        elif function.role in ("grad", "complete"):
            results[output] = value
        else:
            results[f"next {function.target}"] = value
    return results
