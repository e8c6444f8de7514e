"""What a run's probes measure; one definition for all backends.

A backend brings, for each weight layer, what a held-out batch shows of it (`Seen`): `HELD_OUT` test images go
through the network as it is used (no dropout, running averages), once under its rule and once under backprop, and the
run does not notice. `Probes.measure` makes of these the numbers of `metrics.jsonl`, by names such as `angle/fc1`:

| name                  | what                                                                                |
|-----------------------|-------------------------------------------------------------------------------------|
| `angle`               | degrees between W.T and the effective feedback (Akrout et al. 2019, Figure 4)        |
| `norm_ratio`          | the Frobenius norm of the effective feedback over that of W                          |
| `sign_concordance`    | the share of synapses whose effective feedback has the sign of W                     |
| `delta_angle`         | degrees between the layer's delta and backprop's, over the batch (Akrout, Figure 4b) |
| `delta_ratio`         | the norm of its delta over that of backprop's                                        |
| `gradient_ratio`      | the norm of W's pseudo-gradient over backprop's gradient (Moskovitz et al., Figure 2) |
| `sign_changes`        | the share of entries of W with another sign than at the first probe (Figure 5)       |
| `update`              | norm of the change of W since the last probe, over the norm that W had there         |

The effective feedback is the map that `send` applies to delta: sign(W) for usf, M * sign(W) for frsf. Where errors come
straight from the output (`B @ e`), it is the map that e takes, and W stands for what is downstream: the derivative of
the logits by the layer's input, averaged over the batch; in a linear chain that is the product of the matrices. The map
of `B @ target` is taken for -target, which it stands for; of `B @ delta + sum(k, D[k] @ delta[k])` it is B.
What `send` does beside, or where it is not linear, has no map, and the first three have no entry; neither have they in
the first layer, which sends to nobody. A number that does not exist, as an angle with zero, is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ruledsl.emit.binding import is_family
from ruledsl.program import TASK, Program
from ruledsl.streams import number

Array = NDArray[Any]
HELD_OUT = 128
"""Test images in the held-out batch."""
SAMPLE = 2000
"""Pairs of a weight and its effective feedback that are kept of a layer."""
CLASSES = 100
"""Outputs of a network up to which what is downstream is derived: that takes a backward pass for each."""


def angle(forward: Array, feedback: Array) -> float:
    """The angle in degrees between two arrays as vectors; NaN if one is zero."""
    w, b = (np.asarray(a, np.float64).ravel() for a in (forward, feedback))
    lengths = np.linalg.norm(w) * np.linalg.norm(b)
    return float(np.degrees(np.arccos(np.clip(w @ b / lengths, -1, 1)))) if lengths > 0 else float("nan")


def sign_concordance(forward: Array, feedback: Array) -> float:
    """The share of entries that have the same sign."""
    return float(np.mean(np.sign(forward) == np.sign(feedback)))


def norm_ratio(forward: Array, feedback: Array) -> float:
    """The norm of the second array over that of the first; NaN if that is zero."""
    length = np.linalg.norm(np.asarray(forward, np.float64))
    return float(np.linalg.norm(np.asarray(feedback, np.float64)) / length) if length > 0 else float("nan")


@dataclass(frozen=True)
class Seen:
    """A layer at a probe; pairs are (of backprop, of the rule), in one layout each.

    weight    W
    feedback  W, or what is downstream, and the effective feedback in the same layout; None without one
    delta     over the batch; gradient: of W. None where the rule has none
    """

    weight: Array
    feedback: tuple[Array, Array] | None = None
    delta: tuple[Array, Array] | None = None
    gradient: tuple[Array, Array] | None = None


@dataclass
class Probes:
    """The probes of a run, and what they remember: signs of W at the first probe, and W at the last one, by layer.

    pairs   of the last probe, by layer a sample [2, entries] of W and its effective feedback, the same entries always
    """

    signs: dict[str, Array] = field(default_factory=dict)
    last: dict[str, Array] = field(default_factory=dict)
    pairs: dict[str, Array] = field(default_factory=dict)

    def measure(self, layers: Mapping[str, Seen]) -> dict[str, float]:
        """Every number of a probe, by names such as `angle/fc1`."""
        found: dict[str, float] = {}
        for path, seen in layers.items():
            if seen.feedback is not None:
                found[f"angle/{path}"] = angle(*seen.feedback)
                found[f"norm_ratio/{path}"] = norm_ratio(*seen.feedback)
                found[f"sign_concordance/{path}"] = sign_concordance(*seen.feedback)
                self.pairs[path] = _sampled(path, *seen.feedback)
            if seen.delta is not None:
                found[f"delta_angle/{path}"] = angle(*seen.delta)
                found[f"delta_ratio/{path}"] = norm_ratio(*seen.delta)
            if seen.gradient is not None:
                found[f"gradient_ratio/{path}"] = norm_ratio(*seen.gradient)
            signs = np.sign(seen.weight).astype(np.int8)
            found[f"sign_changes/{path}"] = float(np.mean(signs != self.signs.setdefault(path, signs)))
            if path in self.last:
                found[f"update/{path}"] = norm_ratio(self.last[path], seen.weight - self.last[path])
            self.last[path] = np.array(seen.weight)
        return found

    def state(self) -> dict[str, Array]:
        """What later probes depend on, by names such as `signs.fc1`."""
        kept = {"signs": self.signs, "last": self.last}
        return {f"{name}.{path}": value for name, arrays in kept.items() for path, value in arrays.items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Go on from where `state` was taken."""
        kept = {"signs": self.signs, "last": self.last}
        for name, value in state.items():
            which, path = name.split(".", 1)
            kept[which][path] = np.array(value)


def _sampled(path: str, forward: Array, feedback: Array) -> Array:
    size = forward.size
    rows = np.random.default_rng(number(0, path)).choice(size, min(size, SAMPLE), replace=False)
    return np.stack([np.asarray(each, np.float32).ravel()[rows] for each in (forward, feedback)])


# --- the effective feedback ---


@dataclass(frozen=True)
class Sent:
    """delta (`kernel` is None), or what a linear map makes of it, in an emitted `send` that is asked for that map.

    Whatever is not linear in delta raises TypeError.
    """

    kernel: Any = None
    factor: Any = 1.0

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Sent) or np.ndim(other):
            return NotImplemented
        return Sent(self.kernel, self.factor * other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, Sent) or np.ndim(other):
            return NotImplemented
        return Sent(self.kernel, self.factor / other)

    def __neg__(self) -> Sent:
        return Sent(self.kernel, -self.factor)

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Sent) and self.kernel is not None and other.kernel is not None:
            return Sent(self.map + other.map)
        return self if isinstance(other, int | float) and other == 0 else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self + -other

    @property
    def map(self) -> Any:
        """The kernel with its factor."""
        return self.kernel * self.factor


class Asked:
    """A linear map whose adjoint tells which kernel it is given; all else is the map's own."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    def adjoint(self, kernel: Any, v: Any) -> Sent:
        """The kernel, where v is delta."""
        if not isinstance(v, Sent) or v.kernel is not None:
            raise TypeError("the adjoint of something else than delta")
        return Sent(kernel, v.factor)


def effective(program: Program, layer: Any, known: Mapping[str, Any], identity: Any) -> tuple[Any, bool] | None:
    """The map that a rule's `send` applies, and whether it is that of e; None where there is none.

    layer     the layer's linear map
    known     what the equations read that is no activity: tensors, parameters, counters
    identity  [classes, classes]: an error e for each output
    """
    sends = [f for f in program.of_phase(TASK) if f.role == "send"]
    if not sends:
        return None
    reads = _reads(program, sends[0].arguments)
    for error, direct in ((Sent(), False), (identity, True)):
        told = {"e": error, "target": -error, "batch_size": 1} if direct else {"delta": error, "delta_k": ()}
        families = {tensor.name: () for tensor in program.tensors if is_family(tensor)}
        given = {**known, **families, "layer": Asked(layer), **told}
        if reads <= given.keys() and reads & told.keys() - {"batch_size"}:
            try:
                sent = _computed(program, sends[0].name, given)
                if not direct:
                    return (sent.map, False) if isinstance(sent, Sent) and sent.kernel is not None else None
                halved = {name: given[name] / 2 for name in ("e", "target")}
                twice = 2 * _computed(program, sends[0].name, {**given, **halved})
            except TypeError:
                return None
            return (sent, True) if bool((abs(sent - twice) <= 1e-5 * abs(sent)).all()) else None
    return None


def _terms(program: Program) -> dict[str, Any]:
    return {str(f.target): f for f in program.of_phase(TASK) if f.role == "term"}


def _reads(program: Program, arguments: tuple[str, ...]) -> set[str]:
    terms = _terms(program)
    return {
        read for name in arguments for read in (_reads(program, terms[name].arguments) if name in terms else {name})
    }


def _computed(program: Program, name: str, given: Mapping[str, Any]) -> Any:
    """A function of the task's phase, with the terms that it reads."""
    terms = _terms(program)
    own = next(f for f in program.of_phase(TASK) if f.name == name)
    values = [_computed(program, terms[each].name, given) if each in terms else given[each] for each in own.arguments]
    function: Callable[..., Any] = getattr(program.module, name)
    return function(*values)
