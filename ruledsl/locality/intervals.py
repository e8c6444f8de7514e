"""Intervals: the least and the greatest that entries of a value can be, as far as its equations say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ruledsl.ir.equations import Equations
from ruledsl.ir.nodes import Node, walk

INFINITE = float("inf")


class Interval(NamedTuple):
    """Every entry lies between `low` and `high`, both included."""

    low: float
    high: float

    @property
    def positive(self) -> bool:
        """Whether no entry is below zero."""
        return self.low >= 0

    @property
    def one_sided(self) -> bool:
        """Whether no two entries have opposite signs."""
        return self.low >= 0 or self.high <= 0

    @property
    def turned(self) -> Interval:
        """That of the opposite."""
        return Interval(-self.high, -self.low)

    @property
    def inverse(self) -> Interval:
        """That of one, divided by it."""
        if self.low < 0 < self.high or self == (0, 0):
            return ANYTHING
        ends = [1 / end if end else INFINITE if self.high > 0 else -INFINITE for end in self]
        return Interval(min(ends), max(ends))

    def plus(self, other: Interval) -> Interval:
        """That of the sum."""
        return Interval(self.low + other.low, self.high + other.high)

    def times(self, other: Interval) -> Interval:
        """That of the product."""
        corners = [0.0 if a == 0 or b == 0 else a * b for a in self for b in other]
        return Interval(min(corners), max(corners))

    def around(self, other: Interval) -> Interval:
        """The least that holds both."""
        return Interval(min(self.low, other.low), max(self.high, other.high))


ANYTHING, AT_LEAST_NOTHING, ZERO = Interval(-INFINITE, INFINITE), Interval(0, INFINITE), Interval(0, 0)
_NONNEGATIVE = ("abs", "sq", "norm", "l2_norm", "std", "exp", "sqrt")
_SIZES = ("fan_in", "fan_out", "batch_size", "classes", "sources", "targets")
_KEPT = ("transpose", "mean", "full_like")
"""Operations of which the result lies where the last argument does."""
_SUMS = ("total", "sum_all", "sum_k", "apply", "outer", "dot")
"""Sums of values, or of products: nonnegative where all of their arguments are."""


class Intervals:
    """The intervals of a rule's values; parameters have their defaults, or the values that a rule gave them.

    learning_rate   the largest that it can be expected to be
    """

    def __init__(self, equations: Equations, learning_rate: float = 1.0) -> None:
        self.equations, self.learning_rate = equations, learning_rate
        self.memo: dict[int, Interval] = {}
        self.nonnegative: frozenset[str] = frozenset(equations.tensors)
        while True:  # a state is nonnegative where everything that is stored there is, itself assumed to be
            left = frozenset(name for name in self.nonnegative if self._stays_nonnegative(name))
            if left == self.nonnegative:
                return
            self.nonnegative, self.memo = left, {}

    def of(self, root: Node) -> Interval:
        """Where the entries of a value lie."""
        for node in walk(root):
            if id(node) not in self.memo:
                self.memo[id(node)] = self._of(node, [self.memo[id(arg)] for arg in node.args])
        return self.memo[id(root)]

    def _stays_nonnegative(self, name: str) -> bool:
        if self.equations.tensors[name].kind == "forward":
            return False
        stored = [e for e in self.equations.equations if e.target == name and e.role != "drive"]
        return bool(stored) and all(e.role != "grad" and self.of(e.value).positive for e in stored)

    def _of(self, node: Node, args: list[Interval]) -> Interval:
        match node.op:
            case "const":
                value = float(node.attrs[0] or 0)
                return Interval(value, value)
            case "scalar":
                return self._scalar(str(node.attrs[0]))
            case "tensor":
                return self._tensor(str(node.attrs[0]))
            case "random":
                return _drawn(str(node.attrs[0]), args)
            case "mul" if node.args[0] is node.args[1]:
                return AT_LEAST_NOTHING
            case "where":
                return args[1].around(args[2])
            case "count":
                return Interval(1, INFINITE)
        if node.type.boolean:
            return Interval(0, 1)
        if node.op in _NONNEGATIVE:
            return AT_LEAST_NOTHING
        if node.op in _KEPT:
            return args[-1]
        if node.op in _SUMS:
            return AT_LEAST_NOTHING if all(arg.positive for arg in args) else ANYTHING
        return _ARITHMETIC[node.op](*args) if node.op in _ARITHMETIC else ANYTHING

    def _tensor(self, name: str) -> Interval:
        """What is drawn lies where its draws do."""
        drawn = [e.value for e in self.equations.of("init", "draw") if e.target == name and e.value.op == "random"]
        if self.equations.tensors[name].kind in ("fixed", "fresh") and drawn:
            return self.of(drawn[0])
        return AT_LEAST_NOTHING if name in self.nonnegative else ANYTHING

    def _scalar(self, name: str) -> Interval:
        if name in self.equations.parameters:
            value = float(self.equations.parameters[name])
            return Interval(value, value)
        if name in _SIZES:
            return Interval(1, INFINITE)
        highest = {"progress": 1.0, "lr": self.learning_rate}.get(name, INFINITE)
        return Interval(0, highest)


def _power(a: Interval, b: Interval) -> Interval:
    if not a.positive or not b.positive:
        return Interval(0, INFINITE) if a.positive or (b.low == b.high and b.low % 2 == 0) else ANYTHING
    return Interval(0, 1) if a.high <= 1 else AT_LEAST_NOTHING


def _drawn(kind: str, args: list[Interval]) -> Interval:
    return {
        "uniform": args[0].around(args[1]) if len(args) == 2 else ANYTHING,
        "signs": Interval(-1, 1),
        "zeros": Interval(0, 0),
        "ones": Interval(1, 1),
    }.get(kind, ANYTHING)


_ARITHMETIC: Mapping[str, Callable[..., Interval]] = {
    "add": Interval.plus,
    "sub": lambda a, b: a.plus(b.turned),
    "neg": lambda a: a.turned,
    "mul": Interval.times,
    "div": lambda a, b: a.times(b.inverse),
    "pow": _power,
    "min": lambda a, b: Interval(min(a.low, b.low), min(a.high, b.high)),
    "max": lambda a, b: Interval(max(a.low, b.low), max(a.high, b.high)),
    "relu": lambda a: Interval(max(a.low, 0.0), max(a.high, 0.0)),
    "tanh": lambda a: Interval(0 if a.low >= 0 else -1, 0 if a.high <= 0 else 1),
    "sign": lambda a: Interval(0 if a.low >= 0 else -1, 0 if a.high <= 0 else 1),
}
