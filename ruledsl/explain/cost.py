"""What a rule costs: multiply-adds, bytes moved and numbers drawn in one training step, from the equations themselves.

The model, kept simple enough to check by hand:

- A map between the two sides of a layer, applied forwards, backwards or made by `outer`, costs the layer's
  multiply-adds once for every example. Any other map costs its own size for every example.
- Everything else costs no multiply-adds but bytes: each operation reads its arguments and writes its result, as a
  framework does that runs one operation after the other. A value that several equations read is computed once.
- A value is four bytes. Names, transposes and constants are free.
- Whoever has a pseudo-gradient is moved by momentum SGD: five passes (read weight, gradient and momentum; write weight
  and momentum). A stored value (`<-`) is copied once: two passes.
- The first weight layer sends to nobody. It computes neither `send` nor what learns for `send` alone.
- Every phase that sees the batch takes a forward pass, and a backward pass through activations and normalisation where
  errors travel. A phase with `drive` takes none.
- In time, a byte is worth `BALANCE` multiply-adds, and a random number `DRAW_BYTES` bytes: processors draw them one
  after the other. Both were measured with PyTorch on two processor cores; `make bench` shows how far the prediction is
  from the time that a step takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.nodes import Node, reads, walk
from ruledsl.ir.types import POST, PRE, Space, Type
from ruledsl.program import AFTER_STEP, TASK

BYTES = 4
BALANCE = 5.0
DRAW_BYTES = 100
SGD_PASSES, STORE_PASSES = 5, 2
_FREE = frozenset(("const", "scalar", "signal", "tensor", "transpose", "count", "full_like"))


@dataclass(frozen=True)
class LayerSize:
    """The numbers of a weight layer that its cost depends on. Activities are counted for one example.

    synapses       of the kernel, [post units x pre units x window]
    multiply_adds  of one application to one example
    pre, post      neurons on each side: units (channels) x positions
    pre_units, post_units  without positions
    classes        of the network's output
    downstream     `post` of every weight layer further downstream
    sends          whether an error goes further down from here: false for the first layer
    """

    name: str
    synapses: int
    multiply_adds: int
    pre: int
    post: int
    pre_units: int
    post_units: int
    classes: int
    downstream: tuple[int, ...]
    sends: bool

    def neurons(self, space: Space | None) -> int:
        """Of `pre`, `post`, `out`, or in all layers `post[k]` together."""
        if space is None:
            return 1
        if space.index:
            return sum(self.downstream)
        return {"pre": self.pre, "post": self.post, "out": self.classes}[space.name]

    def units(self, space: Space | None) -> int:
        """How many units (channels, in a convolution) a space has: its neurons at one position."""
        return {PRE: self.pre_units, POST: self.post_units}.get(space, self.neurons(space)) if space else 1

    def numbers(self, type: Type, batch: int = 1) -> int:
        """How many numbers a value of this type has."""
        if type.kind == "scalar":
            return 1
        if type.kind == "parameter":
            return self.synapses + self.post_units
        if type.kind == "map":
            if {type.source, type.target} == {PRE, POST}:
                return self.synapses
            return self.neurons(type.source) * self.neurons(type.target)
        size = batch if "batch" in type.axes else 1
        if "units" in type.axes:
            size *= self.units(type.target)
        if "positions" in type.axes:
            size *= self.neurons(type.target) // max(1, self.units(type.target))
        return size


@dataclass(frozen=True)
class Cost:
    """Of one step, or of a part of it: multiply-adds, bytes moved, random numbers drawn."""

    multiply_adds: int = 0
    bytes: int = 0
    drawn: int = 0

    @property
    def time(self) -> float:
        """How long it takes, in multiply-adds."""
        return self.multiply_adds + BALANCE * (self.bytes + DRAW_BYTES * self.drawn)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.multiply_adds + other.multiply_adds, self.bytes + other.bytes, self.drawn + other.drawn)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.multiply_adds * times, self.bytes * times, self.drawn * times)

    def __floordiv__(self, parts: int) -> Cost:
        return Cost(self.multiply_adds // parts, self.bytes // parts, self.drawn // parts)


def total(costs: Iterable[Cost]) -> Cost:
    """The sum."""
    return sum(costs, Cost())


def forward(layers: Sequence[LayerSize], batch: int) -> Cost:
    """Every layer applied to its input, with its activation: the part of a step that no rule changes."""
    return total(
        Cost(
            batch * layer.multiply_adds,
            BYTES * (layer.synapses + batch * (layer.pre + 3 * layer.post)),
        )
        for layer in layers
    )


def backward(layers: Sequence[LayerSize], batch: int) -> Cost:
    """Errors on their way back through what lies between the weight layers."""
    return Cost(bytes=sum(BYTES * batch * 3 * layer.post for layer in layers))


def phase_cost(equations: Equations, phase: str, layers: Sequence[LayerSize], batch: int) -> Cost:
    """What the equations of a phase compute in all layers together, without the forward pass."""
    feedback_only = {name for name in equations.tensors if only_for_feedback(equations, name)}
    cost = Cost()
    for layer in layers:
        computed = [
            equation
            for equation in equations.equations
            if equation.phase == phase and (layer.sends or equation.target not in {"send", *feedback_only})
        ]
        if all(equation.role == "drive" for equation in computed):
            continue
        cost += _layer_cost(equations, computed, layer, batch)
    return cost


def step_cost(equations: Equations, layers: Sequence[LayerSize], batch: int) -> dict[str, Cost]:
    """Of every phase, its forward pass and what follows each step included; under `step` the average step.

    The average leaves out the `first` epochs of the schedule.
    """
    after = total(
        phase_cost(equations, phase, layers, batch) for phase in equations.phases if phase.startswith(AFTER_STEP)
    )
    schedule = equations.schedule
    phases = dict.fromkeys((TASK, *(p for p in equations.phases if not p.startswith(AFTER_STEP))))
    alone = {p: phase_cost(equations, p, layers, batch) + _passes(equations, p, layers, batch) for p in phases}
    if schedule.alternate:
        step = total(alone[phase] for phase in schedule.alternate) // len(schedule.alternate)
    else:
        step = total(alone[phase] for phase in schedule.each if phase in alone)
    result = {phase: cost + (after if phase == TASK else Cost()) for phase, cost in alone.items()}
    return {**result, "step": step + after}


def _passes(equations: Equations, phase: str, layers: Sequence[LayerSize], batch: int) -> Cost:
    if phase in equations.driven:
        return Cost()
    read = {n.attrs[0] for e in equations.equations if e.phase == phase for n in walk(e.value) if n.op == "signal"}
    travels = phase == TASK or read & {"delta", "e"}
    return forward(layers, batch) + (backward(layers, batch) if travels else Cost())


def relative_time(equations: Equations, layers: Sequence[LayerSize], batch: int) -> float:
    """How long the average step takes, in steps of backprop."""
    return step_cost(equations, layers, batch)["step"].time / backprop_cost(layers, batch).time


def backprop_cost(layers: Sequence[LayerSize], batch: int) -> Cost:
    """Of a step of backprop, to compare with."""
    from ruledsl.library import load

    return step_cost(load("backprop").equations, layers, batch)["step"]


def only_for_feedback(equations: Equations, name: str) -> bool:
    """Whether `send` and its own updates alone read a tensor; W and b are read by the forward pass as well."""
    if name in equations.tensors and equations.tensors[name].kind == "forward":
        return False
    readers = {e.target for e in equations.equations if name in reads(e.value)}
    return "send" in readers and readers <= {"send", name}


def _layer_cost(equations: Equations, computed: list[Equation], layer: LayerSize, batch: int) -> Cost:
    cost = Cost()
    for node, times in _with_families(computed, layer):
        drawn = layer.numbers(node.type, batch) if node.op == "random" else 0
        cost += Cost(_multiply_adds(node, layer, batch), _bytes(node, layer, batch), drawn) * times
    for equation in computed:
        if equation.role == "grad":
            cost += Cost(0, SGD_PASSES * BYTES * layer.numbers(equations.tensors[equation.target].type))
        elif equation.role == "assign":
            cost += Cost(0, STORE_PASSES * BYTES * layer.numbers(equations.tensors[equation.target].type))
    return cost


def _with_families(computed: list[Equation], layer: LayerSize) -> Iterator[tuple[Node, int]]:
    """Every node once, with how often it is computed. Inside `sum(k, ...)`, the sizes of `post[k]` are those of all
    layers downstream together already; what else stands there is computed once for each of them."""
    inside = {
        id(part)
        for equation in computed
        for node in walk(equation.value)
        if node.op == "sum_k"
        for part in walk(*node.args)
    }
    for node in walk(*(equation.value for equation in computed)):
        if node.op in _FREE:
            continue
        indexed = any(space is not None and space.index for arg in node.args for space in _spaces(arg.type))
        yield node, len(layer.downstream) if id(node) in inside and not indexed else 1


def _spaces(type: Type) -> tuple[Space | None, Space | None]:
    return type.source, type.target


def _multiply_adds(node: Node, layer: LayerSize, batch: int) -> int:
    if node.op not in ("apply", "outer"):
        return 0
    map_type = node.args[0].type if node.op == "apply" else node.type
    examples = batch if "batch" in node.args[-1].type.axes else 1
    if {map_type.source, map_type.target} == {PRE, POST}:
        return examples * layer.multiply_adds
    return examples * layer.numbers(map_type)


def _bytes(node: Node, layer: LayerSize, batch: int) -> int:
    """Arguments and result; scalars are not counted."""
    types = [node.type, *(arg.type for arg in node.args if arg.op not in ("const", "count", "full_like"))]
    return BYTES * sum(layer.numbers(type, batch) for type in types if type.kind != "scalar")
