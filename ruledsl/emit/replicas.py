"""Data parallel training: what each process computes from its share of a batch, and what the joint batch would give.

Of R processes each sees n of the R * n examples, and its loss is a mean over these: its errors are R times those of the
joint batch, and 1 / batch_size is. What it computes for a tensor is averaged over the processes afterwards. For most
equations this average is what the joint batch gives: outer(delta, x) is a sum of errors that are R times as large.
Where it is not (the spread of a gradient over its synapses, a sum in which no error is), the processes have to bring
together what they summed over their batches, and then go on. Here it is decided which values these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

from ruledsl.ir.equations import Equation
from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.operation import Homogeneity
from ruledsl.ir.operations import OPERATIONS
from ruledsl.passes.scaling import ERRORS

REDUCTIONS = frozenset({"outer", "dot", "sq", "sum_all", "total"})


class Unlike(Exception):
    """The average over the processes is not what the joint batch gives."""


@dataclass(frozen=True)
class Share:
    """What a value of one process is to that of the joint batch.

    partial   whether it was reduced over the examples of this process: the joint value is an average over all of them
    power     it is R ** power times as large; None for zero, which is so with any power
    """

    partial: bool
    power: Fraction | None


@dataclass(frozen=True)
class Together:
    """What the processes do so that the equations of a phase are those of the joint batch.

    joint     by the id of a node, what they bring together: the average over the processes, by R ** power. Averages and
              deviations over the batch that stand inside an expression are brought together wherever they stand: listed
              are those whose power is not 0
    rescaled  whether the errors and batch_size of each process are first made those of the joint batch, and what it
              sends is made its own again
    unlike    the equations that nothing helps
    """

    joint: dict[int, int]
    rescaled: bool
    unlike: list[Equation]


def brought_together(equations: Iterable[Equation], may_rescale: bool) -> Together:
    """What the processes do in a phase: as little as there has to be."""
    equations = list(equations)
    found = [_together(equations, rescaled) for rescaled in (False, True)[: 1 + may_rescale]]
    return min(found, key=lambda one: bool(one.unlike))


def _together(equations: list[Equation], rescaled: bool) -> Together:
    marks: dict[int, int] = {}
    for equation in equations:
        for corrected in (False, True):
            if fits(equation, marks, rescaled):
                break
            more = dict(marks)
            if fits(equation, more, rescaled, corrected):
                marks = more
    return Together(marks, rescaled, [each for each in equations if not fits(each, marks, rescaled)])


def pools(values: Iterable[Node]) -> bool:
    """Whether an average or deviation over the batch stands in one of the values."""
    return any(node.op in ("mean", "std", "l2_norm") and node.attrs[0] == "batch" for node in walk(*values))


def fits(equation: Equation, marks: dict[int, int], rescaled: bool, corrected: bool | None = None) -> bool:
    """Whether the average over the processes is what the joint batch gives.

    corrected   None, or: mark all that is reduced over the batch, and correct its power (True) or not
    """
    try:
        found = share_of(equation.value, marks, rescaled, corrected)
    except Unlike:
        return False
    if equation.role == "send":
        return not found.partial and found.power in (None, 0 if rescaled else 1)
    return found.power in (None, 0)


def share_of(root: Node, marks: dict[int, int], rescaled: bool, corrected: bool | None = None) -> Share:
    """The share of a value. Raises Unlike."""
    found: dict[int, Share] = {}
    for node in walk(root):
        share = _share(node, [found[id(arg)] for arg in node.args], rescaled)
        if node.op in REDUCTIONS and _over_batch(node):
            if corrected is not None and id(node) not in marks:
                whole = share.power is not None and share.power.denominator == 1
                marks[id(node)] = int(share.power or 0) if corrected and whole else 0
            if id(node) in marks:
                power = None if share.power is None else share.power - marks[id(node)]
                share = Share(False, power)
        elif _pooled(node) and share.power is not None and share.power.denominator == 1:
            if corrected and share.power:
                marks.setdefault(id(node), int(share.power))
            share = Share(share.partial, share.power - marks.get(id(node), 0))
        if share.partial and "batch" in node.type.axes:
            raise Unlike  # what was reduced is used for every example again
        found[id(node)] = share
    return found[id(root)]


def _pooled(node: Node) -> bool:
    return node.op == "mean" and node.attrs[0] == "batch"


def _over_batch(node: Node) -> bool:
    return any("batch" in arg.type.axes for arg in node.args)


LINEAR = frozenset({"add", "sub", "neg", "transpose", "mean", "sum_all", "total", "sum_k", "full_like"})
PRODUCTS = frozenset({"mul", "apply", "outer", "dot"})
"""Operations that keep an average over the processes what it is: in each argument, and in one of the arguments."""


def _share(node: Node, args: list[Share], rescaled: bool) -> Share:
    match node.op:
        case "const":
            return Share(False, None if not node.constant else Fraction(0))
        case "signal":
            return Share(False, Fraction(node.attrs[0] in ERRORS and not rescaled))
        case "scalar":
            return Share(False, Fraction(-(node.attrs[0] == "batch_size" and not rescaled)))
        case "tensor" | "random":
            return Share(False, Fraction(0))
        case "count":
            return Share(False, Fraction(-(node.attrs[0] in ("batch", None) and _over_batch(node))))
    power = _POWERS[OPERATIONS[node.op].homogeneity](node, [arg.power for arg in args])
    if node.op in REDUCTIONS and _over_batch(node):
        # The sum over the batch of a process is 1 / R of that over the joint batch, if its terms are the same.
        mean = node.op in ("dot", "sq") or (node.op == "outer" and node.attrs[0] is not None)
        return Share(True, power if mean or power is None else power - 1)
    return Share(_partial(node, args), power)


def _partial(node: Node, args: list[Share]) -> bool:
    """Whether the average over the processes is taken of the result as of the arguments. Raises Unlike."""
    partial = [arg.partial for arg in args]
    kept = node.op in LINEAR or (node.op in PRODUCTS and sum(partial) == 1)
    kept = kept or (node.op == "div" and not partial[1]) or (node.op == "where" and not partial[0])
    if any(partial) and not kept:
        raise Unlike
    return any(partial)


# --- powers, by how an operation scales ---

Power = Fraction | None


def _common(powers: Iterable[Power]) -> Power:
    found = {power for power in powers if power is not None}
    if len(found) > 1:
        raise Unlike
    return next(iter(found), None)


def _none(powers: Iterable[Power]) -> Power:
    """Of a function that may be anything the arguments have to be those of the joint batch."""
    return _common([*powers, Fraction(0)])


def _product(powers: Iterable[Power]) -> Power:
    total = Fraction(0)
    for power in powers:
        if power is None:
            return None
        total += power
    return total


def _of_sum(node: Node, powers: list[Power]) -> Power:
    return _common(powers[1:] if node.op == "where" else powers)


def _of_quotient(node: Node, powers: list[Power]) -> Power:
    return _product([powers[0], -(powers[1] or Fraction(0))])


def _of_power(node: Node, powers: list[Power]) -> Power:
    exponent = node.args[1].constant
    if exponent is None:
        return _none(powers)
    return None if powers[0] is None else powers[0] * Fraction(float(exponent)).limit_denominator(1000)


def _of_sign(node: Node, powers: list[Power]) -> Power:
    _common(powers)
    return Fraction(0)


_POWERS: dict[Homogeneity, Callable[[Node, list[Power]], Power]] = {
    "sum": _of_sum,
    "kept": lambda node, powers: powers[-1],
    "product": lambda node, powers: _product(powers),
    "square": lambda node, powers: _product([*powers, *powers]),
    "quotient": _of_quotient,
    "power": _of_power,
    "root": lambda node, powers: None if powers[0] is None else powers[0] / 2,
    "sign": _of_sign,
    "nothing": lambda node, powers: Fraction(0),
    "other": lambda node, powers: _none(powers),
}
