"""Type an expression: from the tree to typed nodes, every name looked up, every mistake reported once.

`Scope.expression` gives None after reporting a mistake; whatever contains the mistake is then None as well, without
a message of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ruledsl.analysis import names
from ruledsl.diagnostics import Diagnostics, Text
from ruledsl.ir import nodes
from ruledsl.ir.constants import NoValue, Value, value_of
from ruledsl.ir.nodes import Attribute, Node, Place
from ruledsl.ir.operations import make, typed
from ruledsl.ir.rules_of_types import Mismatch
from ruledsl.ir.types import AXES, PARAMETER, POST, SCALAR, Type, activity
from ruledsl.language import tree
from ruledsl.language.printer import print_expression

_BINARY = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "**": "pow",
    "==": "eq",
    "!=": "ne",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "and": "and",
    "or": "or",
}


_OF_POSITIONS = ("apply", "outer")
DEEPEST = 100  # names that are defined by names that are defined by ...


@dataclass(frozen=True)
class Lazy:
    """A `let` or `primitive`: its value is typed when it is first used, in the scope where it was written."""

    ident: tree.Ident
    value: tree.Expr
    text: Text


@dataclass
class Scope:
    """The names that an expression may use, and what they are.

    kind      `rule`, `optimizer` or `constraint`: decides which signals there are
    declared  tensors by name; `families` are those declared over `post[k]`
    scalars   parameters that stay parameters; `constants` are static ones, already folded to a value
    lets      named expressions; an inner scope sees those of the outer one
    """

    kind: str
    diagnostics: Diagnostics
    text: Text
    declared: dict[str, Type] = field(default_factory=dict)
    families: set[str] = field(default_factory=set)
    untyped: set[str] = field(default_factory=set)  # declared with a type that there is not
    scalars: set[str] = field(default_factory=set)
    constants: dict[str, float | bool] = field(default_factory=dict)
    lets: dict[str, Lazy] = field(default_factory=dict)
    typed_lets: dict[int, tuple[Lazy, Node | None]] = field(default_factory=dict)
    typing: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    known: dict[int, tuple[Node, Value]] = field(default_factory=dict)  # the nodes whose value is a constant
    unreachable: list[tree.Expr] = field(default_factory=list)  # the branches that a constant rules out
    index: str | None = None

    def inner(self, lets: Mapping[str, Lazy], text: Text | None = None) -> Scope:
        """A scope inside this one, with more names; shares everything else."""
        return replace(self, lets={**self.lets, **lets}, text=text or self.text)

    def at(self, text: Text) -> Scope:
        """The same scope for an expression that stands in another text."""
        return self if text is self.text else replace(self, text=text)

    # --- reporting ---

    def _fail(self, code: str, span: tree.Span, help: str | None = None, **values: object) -> None:
        self.diagnostics.add(code, span, help=help, text=self.text, **values)

    def _known(self) -> list[str]:
        return [*names.VISIBLE[self.kind], *self.declared, *self.scalars, *self.constants, *self.lets]

    # --- expressions ---

    def expression(self, expr: tree.Expr) -> Node | None:
        """The typed node of an expression, or None after reporting what is wrong with it."""
        place = Place(expr.span, self.text)
        match expr:
            case tree.Number(value=value):
                return nodes.const(value, place=place)
            case tree.Boolean(value=value):
                return nodes.const(value, place=place)
            case tree.Name():
                return self._name(expr, place)
            case tree.Index():
                return self._indexed(expr, place)
            case tree.Transpose(operand=operand):
                return self._operation("transpose", expr, (operand,), place)
            case tree.Unary(op=op, operand=operand):
                return self._operation("neg" if op == "-" else "not", expr, (operand,), place)
            case tree.Binary(op="@", left=left, right=right):
                return self._operation("apply", expr, (left, right), place)
            case tree.Binary(op=op, left=left, right=right):
                return self._operation(_BINARY[op], expr, (left, right), place)
            case tree.Conditional(condition=condition, then=then, otherwise=otherwise):
                return self._conditional(expr, condition, then, otherwise, place)
            case tree.Call():
                return self._call(expr, place)

    def _operation(
        self, op: str, expr: tree.Expr, operands: tuple[tree.Expr, ...], place: Place, attrs: tuple[Attribute, ...] = ()
    ) -> Node | None:
        args = [self.expression(operand) for operand in operands]
        if any(arg is None for arg in args):
            return None
        return self.build(op, tuple(arg for arg in args if arg is not None), operands, place, attrs)

    def build(
        self,
        op: str,
        args: tuple[Node, ...],
        operands: tuple[tree.Expr, ...],
        place: Place,
        attrs: tuple[Attribute, ...] = (),
    ) -> Node | None:
        """The operation on typed arguments; reports a mismatch at the operand that does not fit."""
        try:
            node = typed(op, tuple(_everywhere(arg) for arg in args) if op in _OF_POSITIONS else args, attrs, place)
        except Mismatch as mismatch:
            whole = op in ("add", "sub", "mul", "div", "pow", "lt", "le", "gt", "ge", "eq", "ne", "where")
            whole = whole and mismatch.code == "E0301"
            position = None if whole or (op == "apply" and mismatch.code == "E0306") else mismatch.argument
            span = place.span if position is None else operands[position].span
            self._fail(mismatch.code, span, _help(mismatch, op, args, operands), **mismatch.values)
            return None
        try:
            value = value_of(op, [self.static_value(arg) for arg in args])
        except NoValue as none:
            if not self.unreachable:
                self._fail("E0229", place.span, written=_short(place.snippet), reason=none.reason)
            return None
        if value is not None:
            self.known[id(node)] = node, value
        return node

    def _conditional(
        self, expr: tree.Expr, condition: tree.Expr, then: tree.Expr, otherwise: tree.Expr, place: Place
    ) -> Node | None:
        decides = self.expression(condition)
        if decides is not None and decides.type.boolean and (chosen := self.static_value(decides)) is not None:
            self.unreachable.append(otherwise if chosen else then)
            self.expression(self.unreachable[-1])  # for its names and types
            self.unreachable.pop()
            return self.expression(then if chosen else otherwise)
        args = [decides, self.expression(then), self.expression(otherwise)]
        if any(arg is None for arg in args):
            return None
        return self.build("where", tuple(a for a in args if a), (condition, then, otherwise), place)

    def static_value(self, node: Node) -> float | bool | None:
        """The value of a node that depends on nothing but constants, else None."""
        if node.op == "const":
            return node.constant
        found = self.known.get(id(node))
        return found[1] if found else None

    # --- names ---

    def _name(self, expr: tree.Name, place: Place) -> Node | None:
        name = expr.id
        self.used.add(name)
        if name in self.lets:
            return self._let(self.lets[name])
        if name in self.constants:
            return nodes.const(self.constants[name], place=place)
        if name in self.scalars:
            return nodes.scalar(name, place)
        if name in self.untyped:
            return None
        if name in self.families:
            self._fail("E0219", expr.span, name=name)
            return None
        if name in self.declared:
            return nodes.tensor(name, self.declared[name], place=place)
        if name in names.VISIBLE[self.kind]:
            if name in ("p", "g"):
                leaf = nodes.tensor if name == "p" else nodes.signal
                return leaf(name, PARAMETER, place=place)
            if name in names.FORWARD:
                return nodes.tensor(name, names.FORWARD[name], place=place)
            if name in names.SIGNALS:
                return nodes.signal(name, names.SIGNALS[name], place=place)
            return nodes.scalar(name, place)
        return self._unknown(name, expr.span)

    def _unknown(self, name: str, span: tree.Span) -> Node | None:
        if name in names.SIGNALS or name in names.FORWARD or name in names.COUNTERS or name in names.SIZES:
            sees = {"optimizer": "an optimizer: it sees one parameter `p` and its pseudo-gradient `g`"}
            where = "in " + sees.get(self.kind, "a constraint: it sees the weights of a layer, not its activity")
            self._fail("E0213", span, name=name, where=where)
        elif name in names.FUNCTIONS or name in names.DISTRIBUTIONS:
            self._fail("E0201", span, f"`{name}` is {names.meaning(name)}: write `{name}(...)`", name=name)
        elif name in names.AXES or name in names.SPACES:
            means = (
                f"an axis, as in `mean(v, {name})`" if name in names.AXES else f"a space, as in `state s : {name} = 0`"
            )
            self._fail("E0201", span, f"`{name}` is {means}", name=name)
        else:
            self._fail("E0201", span, names.suggestion(name, self._known()), name=name)
        return None

    def _let(self, let: Lazy) -> Node | None:
        key = id(let)
        if key in self.typed_lets:
            return self.typed_lets[key][1]
        if let.ident.id in self.typing:
            path = [*self.typing[self.typing.index(let.ident.id) :], let.ident.id]
            self.diagnostics.add("E0209", let.ident.span, text=let.text, name=let.ident.id, cycle=" -> ".join(path))
            return None
        if len(self.typing) > DEEPEST:
            help = "write every `let` after those that it uses"
            self.diagnostics.add("E0105", let.ident.span, help=help, text=let.text, limit=DEEPEST)
            return None
        self.typing.append(let.ident.id)
        outside = replace(self.at(let.text), index=None)
        node = outside.expression(let.value)
        self.typing.pop()
        if node is not None and not node.is_leaf and node.name is None:
            value = self.static_value(node)
            node = replace(node, name=let.ident.id)
            if value is not None:
                self.known[id(node)] = node, value
        self.typed_lets[key] = let, node  # the key is its id, which must not be used again
        return node

    def _indexed(self, expr: tree.Index, place: Place) -> Node | None:
        self.used.add(expr.id)
        known = (expr.id == "delta" and self.kind == "rule") or expr.id in self.families
        if expr.id in self.untyped:
            return None
        if not known:
            if expr.id in self._known():
                self._fail("E0221", expr.span, name=expr.id)
            else:
                self._unknown(expr.id, expr.span)
            return None
        if self.index != expr.index:
            self._fail("E0220", expr.span, name=expr.id, index=expr.index)
            return None
        space = replace(POST, index=expr.index)
        if expr.id == "delta":
            return nodes.signal("delta", activity(space), expr.index, place)
        declared = self.declared[expr.id]
        return nodes.tensor(expr.id, replace(declared, source=space), expr.index, place)

    def named(self, name: str) -> Node | None:
        """The value of a `let` or `primitive` of this scope."""
        return self._let(self.lets[name])

    # --- calls ---

    def _call(self, call: tree.Call, place: Place) -> Node | None:
        function = call.function.id
        if function in names.ELEMENTWISE or function in names.REDUCING or function in ("phi", "full_like"):
            count = {**names.ELEMENTWISE, **names.REDUCING, "phi": 1, "full_like": 2}[function]
            if not self._keywords(call, ()) or not self._arity(call, count):
                return None
            if function == "clip":
                return self._clip(call, place)
            return self._operation(function, call, call.args, place)
        if function == "outer":
            return self._outer(call, place)
        if function in names.OVER_AXIS:
            return self._over_axis(call, place)
        if function == "sum":
            return self._sum(call, place)
        if function in names.DISTRIBUTIONS:
            self._fail("E0217", call.span, "give it a name first: `fresh n : ... ~ normal(0, 1)`", name=function)
        else:
            help = names.suggestion(function, names.FUNCTIONS)
            self._fail("E0204", call.function.span, help, name=function)
        return None

    def _arity(self, call: tree.Call, count: int) -> bool:
        if len(call.args) == count:
            return True
        arguments = f"{count} argument{'s' if count != 1 else ''}"
        found = f"there {'is' if len(call.args) == 1 else 'are'} {len(call.args)}"
        self._fail("E0210", call.span, function=call.function.id, expected=arguments, found=found)
        return False

    def _keywords(self, call: tree.Call, allowed: tuple[str, ...]) -> bool:
        for keyword in call.keywords:
            if keyword.name.id not in allowed:
                help = names.suggestion(keyword.name.id, allowed)
                self._fail("E0227", keyword.name.span, help, function=call.function.id, name=keyword.name.id)
                return False
        return True

    def _clip(self, call: tree.Call, place: Place) -> Node | None:
        value, low, high = (self.expression(arg) for arg in call.args)
        if value is None or low is None or high is None:
            return None
        above = self.build("max", (value, low), call.args[:2], place)
        return above and self.build("min", (above, high), (call.args[0], call.args[2]), place)

    def _outer(self, call: tree.Call, place: Place) -> Node | None:
        if not self._keywords(call, ("mean",)) or not self._arity(call, 2):
            return None
        mean: str | None = None
        for keyword in call.keywords:
            word = keyword.value
            if not isinstance(word, tree.Name) or word.id not in ("batch", "all"):
                help = "`mean=batch` or `mean=all`"
                self._fail("E0320", word.span, help, word=print_expression(word))
                return None
            mean = word.id
        return self._operation("outer", call, call.args, place, (mean,))

    def _over_axis(self, call: tree.Call, place: Place) -> Node | None:
        function = call.function.id
        if not self._keywords(call, ()):
            return None
        if len(call.args) not in (1, 2):
            self._arity(call, 2)
            return None
        value, axis = self.expression(call.args[0]), None
        if len(call.args) == 2:
            word = call.args[1]
            if not isinstance(word, tree.Name) or word.id not in AXES:
                spelled = print_expression(word)
                self._fail(
                    "E0320", word.span, names.suggestion(spelled, AXES) or f"one of {', '.join(AXES)}", word=spelled
                )
                return None
            axis = word.id
        if value is None:
            return None
        if function in ("mean", "std"):
            return self.build(function, (value,), call.args, place, (axis,))
        if value.type.kind != "vector":
            self._fail("E0312", call.args[0].span, found=value.type.in_words)
            return None
        inner = "mean" if function == "center" else "length"
        reduced = self.build(inner, (value,), call.args, place, (axis,))
        return reduced and self.build("sub" if function == "center" else "div", (value, reduced), call.args, place)

    def _sum(self, call: tree.Call, place: Place) -> Node | None:
        if not self._keywords(call, ()) or not self._arity(call, 2):
            return None
        index = call.args[0]
        taken = isinstance(index, tree.Name) and (index.id in names.RESERVED or index.id in self._known())
        if not isinstance(index, tree.Name) or taken:
            found = "this has a meaning already" if taken else "this is none"
            self._fail("E0210", index.span, function="sum", expected="a new name first: `sum(k, ...)`", found=found)
            return None
        if self.index is not None:
            self._fail("E0216", call.span, "add two sums instead", item="sum", where="another `sum`")
            return None
        node = replace(self, index=index.id).expression(call.args[1])
        return node and self.build("sum_k", (node,), (call.args[1],), place, (index.id,))

    # --- distributions ---

    def distribution(self, expr: tree.Expr, type: Type) -> Node | None:
        """What stands after `~` or in a `drive`: a draw of the given type."""
        if not isinstance(expr, tree.Call) or expr.function.id not in names.DISTRIBUTIONS:
            close = names.suggestion(expr.function.id, names.DISTRIBUTIONS) if isinstance(expr, tree.Call) else None
            help = f"one of {', '.join(names.DISTRIBUTIONS)}; an expression stands after `=`"
            self._fail("E0218", expr.function.span if isinstance(expr, tree.Call) else expr.span, close or help)
            return None
        kind = expr.function.id
        if kind in ("xavier", "kaiming", "orthogonal") and type.kind != "map":
            values = {"what": f"what `{kind}()` draws", "wanted": "a map", "found": type.in_words}
            self._fail("E0319", expr.span, **values)
            return None
        wanted = names.DISTRIBUTIONS[kind]
        given: dict[str, tree.Expr] = dict(zip(wanted, expr.args, strict=False))
        if not self._keywords(expr, wanted):
            return None
        given.update({keyword.name.id: keyword.value for keyword in expr.keywords})
        if len(expr.args) + len(expr.keywords) != len(wanted) or len(given) != len(wanted):
            count = len(expr.args) + len(expr.keywords)
            plural = "s" if len(wanted) != 1 else ""
            expected = f"{len(wanted)} argument{plural} ({', '.join(wanted)})" if wanted else "no arguments"
            found = f"there {'is' if count == 1 else 'are'} {count}" if count != len(wanted) else "one is given twice"
            self._fail("E0210", expr.span, function=kind, expected=expected, found=found)
            return None
        args: list[Node] = []
        for name in wanted:
            node = self.expression(given[name])
            if node is None:
                return None
            if node.type != SCALAR:
                values = {"what": f"the {name} of a distribution", "wanted": "a scalar", "found": node.type.in_words}
                self._fail("E0319", given[name].span, **values)
                return None
            args.append(node)
        if not self._possible(kind, [self.static_value(arg) for arg in args], [given[name].span for name in wanted]):
            return None
        return Node("random", tuple(args), (kind,), type, Place(expr.span, self.text))

    def _possible(self, kind: str, values: list[Value | None], spans: list[tree.Span]) -> bool:
        """Whether there is such a distribution, as far as its arguments are known; reports the one that is wrong."""
        for name, value, span in zip(names.DISTRIBUTIONS[kind], values, spans, strict=True):
            low, high, interval = {
                "std": (0.0, math.inf, "[0, inf)"),
                "p": (0.0, 1.0, "[0, 1]"),
                "high": (values[0] if values[0] is not None else -math.inf, math.inf, f"[{values[0] or 0:g}, inf)"),
            }.get(name, (-math.inf, math.inf, "(-inf, inf)"))
            if value is not None and (not low <= value <= high or math.isinf(value)):
                self._fail("E0211", span, name=name, value=f"{value:g}", interval=interval)
                return False
        return True


def _everywhere(value: Node) -> Node:
    """What has been averaged over positions, at every position: a map takes whole activities."""
    space = value.type.target
    if value.type.axes != {"batch", "units"} or space is None or space.name == "out":
        return value
    name = "delta" if space.index else {"pre": "x", "post": "u"}[space.name]
    like = nodes.signal(name, activity(space), space.index, value.place)
    return make("mul", make("full_like", like, 1.0, like=value), value, like=value)


def _short(written: str) -> str:
    return written if len(written) <= 60 else f"{written[:57]}..."


def _help(mismatch: Mismatch, op: str, args: tuple[Node, ...], operands: tuple[tree.Expr, ...]) -> str | None:
    """What was probably meant, where that can be guessed."""
    if mismatch.code == "E0306":
        matrix, vector = args
        left, right = (print_expression(operand) for operand in operands)
        guesses = []
        if matrix.type.target == vector.type.target:
            shown = left if isinstance(operands[0], tree.Name | tree.Index | tree.Transpose) else f"({left})"
            guesses.append(f"`{shown[:-2] if shown.endswith('.T') else shown + '.T'} @ {right}`")
        guesses += [
            f"`{left} @ {name}`"
            for name, type in names.SIGNALS.items()
            if type.target == matrix.type.source and name in ("x", "delta", "e")
        ]
        return f"did you mean {' or '.join(guesses)}?" if guesses else None
    if mismatch.code == "E0301" and len(args) >= 2:
        first, second = args[-2].type, args[-1].type
        if first.kind == second.kind == "map" and first.transposed.number == second.number:
            return f"did you mean `{print_expression(operands[-1])}.T`?"
        if {first.kind, second.kind} == {"map", "vector"} and op == "mul":
            return "a map is applied to an activity with `@`"
    if mismatch.code == "E0308":
        return "synapses connect pre with post, and out with pre or post"
    if mismatch.code == "E0305" and args[1].type.kind == "map":
        return "maps are applied one after the other, from the right: `A @ (B @ v)`; `*` multiplies synapse by synapse"
    if mismatch.code == "E0317":
        return "bring them to this layer first: `fixed D : post[k] -> pre ~ kaiming()`, then `D[k] @ delta[k]`"
    return {
        "E0302": "write `if condition then 1 else 0`",
        "E0303": "compare it with something, for example `> 0`",
        "E0304": "products of numbers are written with `*`, products of activities with `outer(a, b)`",
        "E0305": "elementwise products are written with `*`",
        "E0309": "an activity needs no transpose: `outer(v, w)` is the product of v and w transposed",
    }.get(mismatch.code)
