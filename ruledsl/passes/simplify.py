"""Simplify: the canonical form of equations, in which equal values are the same node.

What it does: folds constants; collects scalar factors in front; moves transposes down to the tensors and outer
products (where they cost nothing, since both orientations are stored alike); turns every outer product into the
orientation of the forward kernel, so that `outer(x, delta)` and `outer(delta, x)` are one kernel gradient.
"""

from __future__ import annotations

import math

from ruledsl.ir.constants import NoValue, value_of
from ruledsl.ir.nodes import Attribute, Node, walk
from ruledsl.ir.operations import ELEMENTWISE, OPERATIONS
from ruledsl.ir.types import OUT, POST, SCALAR, Type
from ruledsl.passes.products import Factors, Key
from ruledsl.passes.sums import Sums
from ruledsl.source import SourceLocation

_SCALARS = ELEMENTWISE - {"mul", "div", "neg", "where"}  # these have canonical forms of their own


class Simplifier(Sums):
    """Builds canonical nodes; one for all equations of a rule, so that shared work is found across them."""

    def __init__(self) -> None:
        super().__init__()
        self._done: dict[int, Node] = {}
        self._sizes: dict[Key, Node] = {}
        self._transposed: dict[int, Node] = {}
        self._alive: list[Node] = []  # a node's id is its key in _done: it must not be reused

    def __call__(self, root: Node) -> Node:
        """The canonical node of the same value."""
        for node in walk(root):
            if id(node) not in self._done:
                args = tuple(self._done[id(arg)] for arg in node.args)
                new = self.make(node.op, args, node.attrs, node.type, node.place, node.name)
                if node.name and new.name is None and not new.is_leaf:
                    new.name = node.name
                self._done[id(node)] = new
                self._alive.append(node)
        return self._done[id(root)]

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
        if type is None:
            type = OPERATIONS[op].type_rule([arg.type for arg in args], attrs)
        new = self._rewritten(op, args, attrs, type, place)
        return new if new is not None else self._intern(op, args, attrs, type, place, name)

    def _rewritten(
        self, op: str, args: tuple[Node, ...], attrs: tuple[Attribute, ...], type: Type, place: SourceLocation | None
    ) -> Node | None:
        values = [arg.constant if arg.type.kind == "scalar" else None for arg in args]
        if op in _SCALARS and args and all(value is not None for value in values):
            try:
                result = value_of(op, values)
            except NoValue:
                return None
            return None if result is None else self._const(result)
        match op:
            case "min" | "max" | "and" | "or" if args[0] is args[1]:
                return args[0]
            case "sub" if args[0] is args[1]:
                return self._zero(None if type.kind == "scalar" else args[0], type, place)
            case "lt" | "gt" | "ne" | "le" | "ge" | "eq" if args[0] is args[1] and type.kind == "scalar":
                return self._const(op in ("le", "ge", "eq"))
            case "mul" | "div" | "neg":
                return self._product(self._factors(op, args, place), type, place)
            case "add" | "sub":
                return self._sum(op, args, type, place)
            case "pow" if values[1] in (0.0, 1.0):
                return args[0] if values[1] else self.make("full_like", (args[0], self._const(1.0)), (), type, place)
            case "where":
                return self._where(args, type)
            case "not" if args[0].op == "not":
                return args[0].args[0]
            case "not" if args[0].op in _OPPOSITE:
                return self.make(_OPPOSITE[args[0].op], args[0].args, (), type, place)
            case "sign" | "lt" | "le" | "gt" | "ge" | "eq" | "ne" if op == "sign" or values[1] == 0:
                return self._of_sign(op, args, type, place)
            case "transpose":
                return self._transpose(args[0], type, place)
            case "outer":
                return self._outer(args, attrs, type, place)
            case "apply":
                return self._apply(args, type, place)
            case "count":
                return self._count(args[0], attrs[0], type, place)
            case "mean":
                return self._mean(args[0], attrs, type, place)
            case "dot" if args[0] is args[1]:
                return self.make("sq", (args[0],), (), type, place)
            case "full_like" if type.kind == "scalar":
                return args[1]
            case "full_like" if args[0].op == "full_like":
                return self.make("full_like", (args[0].args[0], args[1]), (), type, place)
            case "sum_k" if args[0].constant == 0 and type.kind == "scalar":
                return self._const(0.0)
        return None

    def _of_sign(self, op: str, args: tuple[Node, ...], type: Type, place: SourceLocation | None) -> Node | None:
        """`sign(1e-40 * W)` is `sign(W)`, also where the product is too small for the machine."""
        factors = self._split(args[0])
        if factors.core is None or factors.number <= 0 or factors.number == 1 or math.isinf(factors.number):
            return None
        factors.number = 1.0
        return self.make(op, (self._product(factors, args[0].type, place), *args[1:]), (), type, place)

    def _where(self, args: tuple[Node, ...], type: Type) -> Node | None:
        condition, then, otherwise = args
        if isinstance(condition.constant, bool):
            chosen = then if condition.constant else otherwise
            other = otherwise if condition.constant else then
            if chosen.type != type and chosen.type.kind == "scalar" and other.type == type and not type.boolean:
                return self.make("full_like", (other, chosen), (), type)
            return chosen if chosen.type == type else None
        return then if then is otherwise and then.type == type else None

    # --- averages ---

    def _count(self, value: Node, axis: Attribute, type: Type, place: SourceLocation | None) -> Node | None:
        """The batch has one size, and so has every axis of a space, whichever of its vectors is asked."""
        if axis == "batch":
            return self.make("scalar", (), ("batch_size",), SCALAR, place)
        if value.type.kind != "vector":
            return None
        key = (value.type.target, axis)
        if key not in self._sizes:
            self._sizes[key] = self._intern("count", (_plainest(value, axis),), (axis,), type, place)
        return self._sizes[key]

    def _mean(self, value: Node, attrs: tuple[Attribute, ...], type: Type, place: SourceLocation | None) -> Node | None:
        factors = self._split(value)
        if factors.core is None or factors.core is value:
            return None
        factors.core = self._intern("mean", (factors.core,), attrs, type, place)
        return self._product(factors, type, place)

    # --- maps ---

    def _transpose(self, node: Node, type: Type, place: SourceLocation | None) -> Node | None:
        if node.op == "transpose":
            return node.args[0]
        if node.op == "const":
            return self._const(node.attrs[0], type)  # type: ignore[arg-type]
        if node.op not in ELEMENTWISE and node.op != "full_like":
            return None
        waiting = [node]
        while waiting:  # a loop, since a rule may define a map by a map that is defined by a map ...
            part = waiting[-1]
            inner = [arg for arg in part.args if arg.type.kind == "map"]
            deeper = [
                a for a in inner if id(a) not in self._transposed and (a.op in ELEMENTWISE or a.op == "full_like")
            ]
            if deeper:
                waiting += deeper
                continue
            waiting.pop()
            if id(part) in self._transposed:
                continue
            for arg in inner:
                if id(arg) not in self._transposed:
                    self._transposed[id(arg)] = self.make("transpose", (arg,), (), arg.type.transposed, place)
            args = tuple(self._transposed[id(a)] if a.type.kind == "map" else a for a in part.args)
            flipped = self.make(part.op, args, part.attrs, part.type.transposed, part.place)
            self._transposed[id(part)] = flipped
        return self._transposed[id(node)]

    def _outer(
        self, args: tuple[Node, ...], attrs: tuple[Attribute, ...], type: Type, place: SourceLocation | None
    ) -> Node | None:
        left, right = self._split(args[0]), self._split(args[1])
        if left.core is None or right.core is None:
            return None
        if left.number == 0 or right.number == 0:
            return self._zero(self._intern("outer", args, attrs, type, place), type, place)
        v, w = left.core, right.core
        scaled = v is not args[0] or w is not args[1]
        if stored_the_other_way(type):
            straight = self._intern("outer", (w, v), attrs, type.transposed, place)
            core = self._intern("transpose", (straight,), (), type, place)
        elif scaled:
            core = self._intern("outer", (v, w), attrs, type, place)
        else:
            return None
        factors = Factors(left.number * right.number, left.above + right.above, left.below + right.below, core)
        return self._product(factors, type, place)

    def _apply(self, args: tuple[Node, ...], type: Type, place: SourceLocation | None) -> Node | None:
        left, right = self._split(args[0]), self._split(args[1])
        if left.number == 0 or right.number == 0:
            return self._zero(self._intern("apply", args, (), type, place), type, place)
        matrix, vector = left.core, right.core
        if matrix is None or vector is None or (matrix is args[0] and vector is args[1]):
            return None
        core = self._intern("apply", (matrix, vector), (), type, place)
        factors = Factors(left.number * right.number, left.above + right.above, left.below + right.below, core)
        return self._product(factors, type, place)


_OPPOSITE = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}


def _plainest(value: Node, axis: Attribute) -> Node:
    """What has the same size along the axis, with the least to compute."""
    while value.op in ELEMENTWISE or value.op == "full_like":
        alike = [arg for arg in value.args if arg.type.target == value.type.target and axis in arg.type.axes]
        if not alike:
            break
        value = alike[0]
    return value


def stored_the_other_way(type: Type) -> bool:
    """Outer products are computed as pre -> post, out -> anything, post[k] -> pre; the others are their transposes."""
    assert type.source is not None and type.target is not None
    if type.target == OUT or type.target.index:
        return True
    return type.source == POST
