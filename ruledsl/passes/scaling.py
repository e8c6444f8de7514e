"""Scaling: how a value follows the scale of the loss, and how it adds up over examples.

A pseudo-gradient that is a sum over examples, and homogeneous of degree one in the errors, is the same whether a batch
comes at once, in micro-batches or over replicas, and whether the loss was scaled or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.operation import Homogeneity
from ruledsl.ir.operations import OPERATIONS

ERRORS = frozenset({"delta", "eps", "e"})
Over = Literal["nothing", "each", "sum", "batch"]


@dataclass(frozen=True)
class Scaling:
    """How a value scales, and what it is taken over.

    degree  its degree in the errors: 1 for what doubles with the loss, 0 for what reads no errors; None where it is
            homogeneous of no degree
    over    `nothing`: it reads no activity; `each`: one value for each example, of this one alone; `sum`: the sum of
            these over the batch; `batch`: it depends on the batch in another way, as a mean does
    zero    it is zero, and so of any degree, and any sum
    """

    degree: float | None = 0
    over: Over = "nothing"
    zero: bool = False

    @property
    def linear(self) -> bool:
        """Whether it scales with the loss and adds up over micro-batches and replicas."""
        return self.zero or (self.scales and self.adds)

    @property
    def scales(self) -> bool:
        """Whether it scales with the loss."""
        return self.zero or self.degree == 1

    @property
    def adds(self) -> bool:
        """Whether it adds up over micro-batches and replicas."""
        return self.zero or self.over in ("each", "sum")


def scaling_of(root: Node, memo: dict[int, Scaling] | None = None) -> Scaling:
    """The scaling of a value."""
    memo = {} if memo is None else memo
    for node in walk(root):
        if id(node) not in memo:
            memo[id(node)] = _scaling(node, [memo[id(arg)] for arg in node.args])
    return memo[id(root)]


def _scaling(node: Node, args: list[Scaling]) -> Scaling:
    match node.op:
        case "const":
            return Scaling(zero=node.constant == 0)
        case "signal":
            return Scaling(1 if node.attrs[0] in ERRORS else 0, "each")
        case "scalar":
            return Scaling(over="batch" if node.attrs[0] == "batch_size" else "nothing")
        case "tensor" | "random":
            return Scaling()
    degree = _DEGREES[OPERATIONS[node.op].homogeneity](node, args)
    return Scaling(None if degree is ZERO else degree, _over(node, args), degree is ZERO)


# --- degrees ---

ZERO = float("inf")  # in the place of a degree: the value is zero

Degree = float | None


def _joined(args: list[Scaling]) -> Degree:
    degrees = {arg.degree for arg in args if not arg.zero}
    return ZERO if not degrees else degrees.pop() if len(degrees) == 1 else None


def _of_sum(node: Node, args: list[Scaling]) -> Degree:
    if node.op == "where":
        return _joined(args[1:]) if args[0].zero or args[0].degree == 0 else None
    return _joined(args)


def _of_product(node: Node, args: list[Scaling]) -> Degree:
    if any(arg.zero for arg in args):
        return ZERO
    degrees = [arg.degree for arg in args]
    return None if None in degrees else sum(degree for degree in degrees if degree is not None)


def _of_quotient(node: Node, args: list[Scaling]) -> Degree:
    above, below = args
    if above.zero:
        return ZERO
    return None if above.degree is None or below.degree is None or below.zero else above.degree - below.degree


def _of_power(node: Node, args: list[Scaling]) -> Degree:
    base, exponent = args[0], node.args[1].constant
    if exponent is None or base.zero or base.degree is None:
        return _of_other(node, args)
    return base.degree * exponent


def _of_other(node: Node, args: list[Scaling]) -> Degree:
    return 0 if all(arg.zero or arg.degree == 0 for arg in args) else None


def _of_sign(node: Node, args: list[Scaling]) -> Degree:
    return None if _joined(args) is None else 0


_DEGREES: dict[Homogeneity, Callable[[Node, list[Scaling]], Degree]] = {
    "sum": _of_sum,
    "kept": lambda node, args: _joined(args[-1:]),
    "product": _of_product,
    "square": lambda node, args: _of_product(node, [*args, *args]),
    "quotient": _of_quotient,
    "power": _of_power,
    "root": lambda node, args: None if args[0].degree is None else ZERO if args[0].zero else args[0].degree / 2,
    "sign": _of_sign,
    "nothing": lambda node, args: 0,
    "other": _of_other,
}


# --- over what ---

_SUMS = ("total", "sum_all")


def _over(node: Node, args: list[Scaling]) -> Over:
    overs = {arg.over for arg in args}
    batched = [_batched(arg) for arg in node.args]
    if node.op == "count":
        return "batch" if batched[0] and node.attrs[0] in (None, "batch") else "nothing"
    if "batch" in overs or ("sum" in overs and _batched(node)):
        return "batch"
    if _batched(node):
        return "each" if "each" in overs else "nothing"
    if any(batched):  # the batch is gone: summed over, or otherwise
        summed = node.op in _SUMS or (node.op == "outer" and node.attrs[0] is None and all(batched))
        return "sum" if summed else "batch"
    if overs <= {"nothing"}:
        return "nothing"
    sums = [arg.over == "sum" or arg.zero for arg in args]
    kept = OPERATIONS[node.op].homogeneity
    if node.op == "where":
        linear = args[0].over == "nothing" and all(sums[1:])
    elif node.op in ("add", "sub"):
        linear = all(sums)
    elif kept == "product":
        linear = sum(arg.over == "sum" for arg in args) == 1
    elif kept == "quotient":
        linear = args[1].over == "nothing"
    else:
        linear = node.op in ("neg", "transpose", "mean", *_SUMS)
    return "sum" if linear else "batch"


def _batched(node: Node) -> bool:
    return "batch" in node.type.axes
