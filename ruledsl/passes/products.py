"""Products in canonical form: a number, scalars above and below the line, and what is no scalar."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from ruledsl.ir.nodes import Attribute, Node, walk
from ruledsl.ir.operations import COMMUTATIVE, OPERATIONS
from ruledsl.ir.types import SCALAR, Type
from ruledsl.source import SourceLocation

Key = tuple[object, ...]
MOST_FACTORS = 16  # a product of more scalars is left as it is: they double where a value is squared again and again


@dataclass
class Factors:
    """A product: a number, scalars above and below the line, and what is no scalar (or None)."""

    number: float = 1.0
    above: list[Node] = field(default_factory=list)
    below: list[Node] = field(default_factory=list)
    core: Node | None = None


class Products(ABC):
    """Canonical nodes, of which equal ones are the same, and their scalar factors."""

    def __init__(self) -> None:
        self._interned: dict[Key, Node] = {}
        self._long: dict[int, int] = {}  # how many scalar factors a product has

    @abstractmethod
    def make(
        self,
        op: str,
        args: tuple[Node, ...] = (),
        attrs: tuple[Attribute, ...] = (),
        type: Type | None = None,
        place: SourceLocation | None = None,
        name: str | None = None,
    ) -> Node:
        """The canonical node of an operation on canonical nodes."""

    def _intern(
        self,
        op: str,
        args: tuple[Node, ...],
        attrs: tuple[Attribute, ...],
        type: Type,
        place: SourceLocation | None = None,
        name: str | None = None,
    ) -> Node:
        ids = tuple(id(arg) for arg in args)
        if op in COMMUTATIVE:
            ids = tuple(sorted(ids))
        key = (op, ids, attrs, tuple(a.__class__ for a in attrs), type, place if op == "random" else None)
        node = self._interned.get(key)
        if node is None:
            node = self._interned[key] = Node(op, args, attrs, type, place, name)
        elif name and node.name is None:
            node.name = name
        return node

    def _const(self, value: float | bool, type: Type = SCALAR) -> Node:
        return self._intern("const", (), (value,), type.condition if isinstance(value, bool) else type)

    def _factors(self, op: str, args: tuple[Node, ...], place: SourceLocation | None) -> Factors:
        if op == "neg":
            factors = self._split(args[0])
            factors.number = -factors.number
            return factors
        left, right = self._split(args[0]), self._split(args[1])
        if op == "div":
            if right.number == 0:
                return Factors(left.number, left.above, [*left.below, *right.above, self._const(0.0)], left.core)
            right.number, right.above, right.below = 1 / right.number, right.below, right.above
        core = left.core
        if right.core is not None:
            if op == "div":
                numerator = left.core if left.core is not None else self._const(1.0)
                core = self._intern("div", (numerator, right.core), (), _type("div", numerator, right.core), place)
            elif left.core is None:
                core = right.core
            else:
                core = self._elementwise_product(left.core, right.core, place)
        return Factors(left.number * right.number, left.above + right.above, left.below + right.below, core)

    def _elementwise_product(self, left: Node, right: Node, place: SourceLocation | None) -> Node:
        type = _type("mul", left, right)
        for filled, other in ((left, right), (right, left)):
            if filled.op == "full_like" and filled.args[1].constant == 1 and other.type == type:
                return other
        return self._intern("mul", (left, right), (), type, place)

    def _split(self, node: Node) -> Factors:
        """Undo what `_product` builds: the factors of a canonical node."""
        value = node.constant
        if node.type.kind == "scalar" and value is not None and not isinstance(value, bool) and math.isfinite(value):
            return Factors(float(value))
        if is_zero(node):
            return Factors(0.0, core=node)
        if node.op in ("neg", "mul", "div") and self._long.get(id(node), 0) < MOST_FACTORS:
            scalars = [arg.type.kind == "scalar" for arg in node.args]
            if node.op == "neg" or scalars[1] or (node.op == "mul" and scalars[0]):
                return self._factors(node.op, node.args, node.place)
        if node.type.kind == "scalar":
            return Factors(above=[node])
        return Factors(core=node)

    def _product(self, factors: Factors, type: Type, place: SourceLocation | None) -> Node:
        core, number = factors.core, factors.number
        if number == 0:
            return self._zero(core, type, place)
        below, above = list(factors.below), list(factors.above)
        for node in factors.above:
            if node in below and (node.op == "count" or node.attrs == ("batch_size",)):  # sizes are never zero
                below.remove(node)
                above.remove(node)
        sizes = [node for node in below if node.attrs == ("batch_size",)]
        if core is not None and sizes and _summed_outer(core):
            below.remove(sizes[0])
            core = self._mean_outer(core)
        factor: Node | None = None
        if abs(number) != 1:
            factor = self._const(abs(number))
        for node in above:
            factor = node if factor is None else self._intern("mul", (factor, node), (), SCALAR, place)
        if core is None and factor is None:
            factor = self._const(1.0)
        if factor is not None:
            for node in below:
                factor = self._intern("div", (factor, node), (), SCALAR, place)
        if core is None:
            assert factor is not None
            result = factor
        elif factor is not None:
            result = self._intern("mul", (factor, core), (), type, place)
        else:
            result = core
            for node in below:
                result = self._intern("div", (result, node), (), type, place)
        self._long[id(result)] = len(above) + len(below)
        if number > 0:
            return result
        value = result.constant
        if value is not None and result.type.kind == "scalar":
            return self._const(-value)
        return self._intern("neg", (result,), (), type, place)

    def _mean_outer(self, core: Node) -> Node:
        if core.op == "transpose":
            return self._intern("transpose", (self._mean_outer(core.args[0]),), (), core.type, core.place, core.name)
        return self._intern("outer", core.args, ("batch",), core.type, core.place, core.name)

    def _zero(self, core: Node | None, type: Type, place: SourceLocation | None) -> Node:
        """Zeros of the shape of `core`: what sums or averages them has to find their axes."""
        if core is None:
            return self._const(0.0, type)
        like = next((leaf for leaf in walk(core) if leaf.op in ("signal", "tensor") and leaf.type == type), core)
        return self._intern("full_like", (like, self._const(0.0)), (), type, place)


def _summed_outer(node: Node) -> bool:
    outer = node.args[0] if node.op == "transpose" else node
    return outer.op == "outer" and outer.attrs[0] is None


def _type(op: str, *args: Node) -> Type:
    return OPERATIONS[op].type_rule([arg.type for arg in args], ())


def is_zero(node: Node) -> bool:
    value = node.args[1] if node.op == "full_like" else node
    return value.op == "const" and value.attrs[0] == 0 and not isinstance(value.attrs[0], bool)
