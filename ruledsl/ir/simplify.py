"""Simplify: the canonical form of equations, in which equal values are the same node.

What it does: folds constants; collects scalar factors in front; moves transposes down to the tensors and outer
products (where they cost nothing, since both orientations are stored alike); turns every outer product into the
orientation of the forward kernel, so that `outer(x, delta)` and `outer(delta, x)` are one kernel gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ruledsl.ir.constants import ARITHMETIC, NoValue, value_of
from ruledsl.ir.nodes import Attribute, Node, Place, walk
from ruledsl.ir.operations import COMMUTATIVE, OPERATIONS
from ruledsl.ir.types import OUT, POST, SCALAR, Type

Key = tuple[object, ...]
MOST_TERMS = 16  # of a sum, in which outer products are looked for that can be one
MOST_FACTORS = 16  # a product of more scalars is left as it is: they double where a value is squared again and again

_SCALARS = frozenset(ARITHMETIC) - {"mul", "div", "neg", "where"}  # these have canonical forms of their own

ELEMENTWISE = frozenset(ARITHMETIC)


@dataclass
class Factors:
    """A product: a number, scalars above and below the line, and what is no scalar (or None)."""

    number: float = 1.0
    above: list[Node] = field(default_factory=list)
    below: list[Node] = field(default_factory=list)
    core: Node | None = None


class Simplifier:
    """Builds canonical nodes; one for all equations of a rule, so that shared work is found across them."""

    def __init__(self) -> None:
        self._interned: dict[Key, Node] = {}
        self._done: dict[int, Node] = {}
        self._sizes: dict[Key, Node] = {}
        self._transposed: dict[int, Node] = {}
        self._long: dict[int, int] = {}  # how many scalar factors a product has
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
        place: Place | None = None,
        name: str | None = None,
    ) -> Node:
        """The canonical node of an operation on canonical nodes."""
        if type is None:
            type = OPERATIONS[op].type_rule([arg.type for arg in args], attrs)
        new = self._rewritten(op, args, attrs, type, place)
        return new if new is not None else self._intern(op, args, attrs, type, place, name)

    def _intern(
        self,
        op: str,
        args: tuple[Node, ...],
        attrs: tuple[Attribute, ...],
        type: Type,
        place: Place | None = None,
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

    def _rewritten(
        self, op: str, args: tuple[Node, ...], attrs: tuple[Attribute, ...], type: Type, place: Place | None
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

    def _of_sign(self, op: str, args: tuple[Node, ...], type: Type, place: Place | None) -> Node | None:
        """`sign(1e-40 * W)` is `sign(W)`, also where the product is too small for the machine."""
        factors = self._split(args[0])
        if factors.core is None or factors.number <= 0 or factors.number == 1 or math.isinf(factors.number):
            return None
        factors.number = 1.0
        return self.make(op, (self._product(factors, args[0].type, place), *args[1:]), (), type, place)

    # --- averages ---

    def _count(self, value: Node, axis: Attribute, type: Type, place: Place | None) -> Node | None:
        """The batch has one size, and so has every axis of a space, whichever of its vectors is asked."""
        if axis == "batch":
            return self.make("scalar", (), ("batch_size",), SCALAR, place)
        if value.type.kind != "vector":
            return None
        key = (value.type.target, axis)
        if key not in self._sizes:
            self._sizes[key] = self._intern("count", (_plainest(value, axis),), (axis,), type, place)
        return self._sizes[key]

    def _mean(self, value: Node, attrs: tuple[Attribute, ...], type: Type, place: Place | None) -> Node | None:
        factors = self._split(value)
        if factors.core is None or factors.core is value:
            return None
        factors.core = self._intern("mean", (factors.core,), attrs, type, place)
        return self._product(factors, type, place)

    # --- sums ---

    def _sum(self, op: str, args: tuple[Node, ...], type: Type, place: Place | None) -> Node | None:
        left, right = args
        if _is_zero(right) and left.type == type:
            return left
        if _is_zero(left) and right.type == type:
            return right if op == "add" else self.make("neg", (right,), (), type, place)
        negative = _without_minus(self, right)
        if negative is not None:
            return self.make("sub" if op == "add" else "add", (left, negative), (), type, place)
        negative = _without_minus(self, left)
        if op == "add" and negative is not None:
            return self.make("sub", (right, negative), (), type, place)
        narrow = _not_spread_out(right) if left.type == type else None
        if narrow is not None:
            return self.make(op, (left, narrow), (), type, place)
        return self._one_outer(op, left, right, type, place) or self._mean_of_sum(op, left, right, type, place)

    def _one_outer(self, op: str, left: Node, right: Node, type: Type, place: Place | None) -> Node | None:
        """`outer(f, a) + outer(f, b)` is `outer(f, a + b)`: one kernel gradient instead of two.

        The terms may stand apart in a longer sum, and have scalars in front.
        """
        if type.kind != "map" or left.type != type or right.type != type:
            return None
        if op == "add" and left.op not in ("add", "sub"):
            left, right = right, left
        after: list[Node] = []  # the sums on the way down to the term that takes it up
        while len(after) < MOST_TERMS:
            deeper = left.op in ("add", "sub") and left.args[0].type == left.args[1].type == type
            last = left.args[1] if deeper else left
            sign = "add" if not deeper or left.op == op else "sub"
            together = self._merged(sign if deeper else op, last, right, type, place)
            if together is not None:
                result = self.make(left.op, (left.args[0], together), (), type, place) if deeper else together
                for sum in reversed(after):
                    result = self.make(sum.op, (result, sum.args[1]), (), type, place)
                return result
            if not deeper:
                return None
            after.append(left)
            left = left.args[0]
        return None

    def _merged(self, op: str, left: Node, right: Node, type: Type, place: Place | None) -> Node | None:
        """The sum of two outer products that share a vector as one, or None."""
        a, b = self._split(left), self._split(right)
        if a.core is None or b.core is None or a.core.op != b.core.op:
            return None
        one, other = (n.args[0] if n.op == "transpose" else n for n in (a.core, b.core))
        if one.op != "outer" or other.op != "outer" or one.attrs != other.attrs or one.type != other.type:
            return None
        for shared, kept in ((0, 1), (1, 0)):
            if one.args[shared] is other.args[shared] and one.args[kept].type == other.args[kept].type:
                a.core, b.core = one.args[kept], other.args[kept]
                vectors = (self._product(a, a.core.type, place), self._product(b, b.core.type, place))
                total = self.make(op, vectors, (), a.core.type, place)
                args = (one.args[0], total) if shared == 0 else (total, one.args[1])
                straight = self.make("outer", args, one.attrs, one.type, place)
                return straight if one.type == type else self.make("transpose", (straight,), (), type, place)
        return None

    def _mean_of_sum(self, op: str, left: Node, right: Node, type: Type, place: Place | None) -> Node | None:
        """`a / batch_size + b / batch_size` is one mean: `outer` computes it for nothing."""
        a, b = self._split(left), self._split(right)
        if not (_batch_sizes(a) and _batch_sizes(b)):
            return None
        size = _batch_sizes(a)[0]
        a.below.remove(size)
        b.below.remove(size)
        total = self.make(
            op, (self._product(a, left.type, place), self._product(b, right.type, place)), (), type, place
        )
        return self._product(Factors(below=[size], core=total), type, place)

    def _where(self, args: tuple[Node, ...], type: Type) -> Node | None:
        condition, then, otherwise = args
        if isinstance(condition.constant, bool):
            chosen = then if condition.constant else otherwise
            return chosen if chosen.type == type else None
        return then if then is otherwise and then.type == type else None

    # --- products ---

    def _factors(self, op: str, args: tuple[Node, ...], place: Place | None) -> Factors:
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

    def _elementwise_product(self, left: Node, right: Node, place: Place | None) -> Node:
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
        if _is_zero(node):
            return Factors(0.0, core=node)
        if node.op in ("neg", "mul", "div") and self._long.get(id(node), 0) < MOST_FACTORS:
            scalars = [arg.type.kind == "scalar" for arg in node.args]
            if node.op == "neg" or scalars[1] or (node.op == "mul" and scalars[0]):
                return self._factors(node.op, node.args, node.place)
        if node.type.kind == "scalar":
            return Factors(above=[node])
        return Factors(core=node)

    def _product(self, factors: Factors, type: Type, place: Place | None) -> Node:
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

    def _zero(self, core: Node | None, type: Type, place: Place | None) -> Node:
        """Zeros of the shape of `core`: what sums or averages them has to find their axes."""
        if core is None:
            return self._const(0.0, type)
        like = next((leaf for leaf in walk(core) if leaf.op in ("signal", "tensor") and leaf.type == type), core)
        return self._intern("full_like", (like, self._const(0.0)), (), type, place)

    # --- maps ---

    def _transpose(self, node: Node, type: Type, place: Place | None) -> Node | None:
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
        self, args: tuple[Node, ...], attrs: tuple[Attribute, ...], type: Type, place: Place | None
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

    def _apply(self, args: tuple[Node, ...], type: Type, place: Place | None) -> Node | None:
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


def _summed_outer(node: Node) -> bool:
    outer = node.args[0] if node.op == "transpose" else node
    return outer.op == "outer" and outer.attrs[0] is None


def _not_spread_out(node: Node) -> Node | None:
    """v of `full_like(a, 1) * v`: a sum with something of the full type spreads it out anyway."""
    if node.op != "mul" or not (node.args[0].op == "full_like" and node.args[0].args[1].constant == 1):
        return None
    return node.args[1]


def _plainest(value: Node, axis: Attribute) -> Node:
    """What has the same size along the axis, with the least to compute."""
    while value.op in ELEMENTWISE or value.op == "full_like":
        alike = [arg for arg in value.args if arg.type.target == value.type.target and axis in arg.type.axes]
        if not alike:
            break
        value = alike[0]
    return value


def _batch_sizes(factors: Factors) -> list[Node]:
    return [node for node in factors.below if node.op == "scalar" and node.attrs[0] == "batch_size"]


def _type(op: str, *args: Node) -> Type:
    return OPERATIONS[op].type_rule([arg.type for arg in args], ())


def _is_zero(node: Node) -> bool:
    value = node.args[1] if node.op == "full_like" else node
    return value.op == "const" and value.attrs[0] == 0 and not isinstance(value.attrs[0], bool)


def _without_minus(simplifier: Simplifier, node: Node) -> Node | None:
    """The node without the minus sign in front of it, or None if there is no such sign."""
    if node.op == "neg":
        return node.args[0]
    value = node.constant
    if node.type.kind == "scalar" and value is not None and value < 0:
        return simplifier.make("const", (), (-value,), SCALAR)
    return None


def stored_the_other_way(type: Type) -> bool:
    """Outer products are computed as pre -> post, out -> anything, post[k] -> pre; the others are their transposes."""
    assert type.source is not None and type.target is not None
    if type.target == OUT or type.target.index:
        return True
    return type.source == POST
