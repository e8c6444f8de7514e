"""Type an expression: from the tree to typed nodes, every name looked up, every mistake reported once.

`Scope.expression` gives None after reporting a mistake; whatever contains the mistake is then None as well, without
a message of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ruledsl.analysis import names
from ruledsl.analysis.calls import call
from ruledsl.analysis.suggestions import guess
from ruledsl.diagnostics import Diagnostics
from ruledsl.ir import nodes
from ruledsl.ir.constants import NoValue, Value, value_of
from ruledsl.ir.nodes import Attribute, Node
from ruledsl.ir.operations import make, typed
from ruledsl.ir.type_rules import Mismatch
from ruledsl.ir.types import PARAMETER, POST, Type, activity
from ruledsl.language import tree
from ruledsl.source import Source, SourceLocation, Span

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
    text: Source


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
    text: Source
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

    def inner(self, lets: Mapping[str, Lazy], text: Source | None = None) -> Scope:
        """A scope inside this one, with more names; shares everything else."""
        return replace(self, lets={**self.lets, **lets}, text=text or self.text)

    def at(self, text: Source) -> Scope:
        """The same scope for an expression that stands in another text."""
        return self if text is self.text else replace(self, text=text)

    # --- reporting ---

    def fail(self, code: str, span: Span, help: str | None = None, **values: object) -> None:
        self.diagnostics.add(code, span, help=help, text=self.text, **values)

    def names_in_sight(self) -> list[str]:
        return [*names.VISIBLE[self.kind], *self.declared, *self.scalars, *self.constants, *self.lets]

    # --- expressions ---

    def expression(self, expr: tree.Expr) -> Node | None:
        """The typed node of an expression, or None after reporting what is wrong with it."""
        place = SourceLocation(expr.span, self.text)
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
                return self.operation("transpose", expr, (operand,), place)
            case tree.Unary(op=op, operand=operand):
                return self.operation("neg" if op == "-" else "not", expr, (operand,), place)
            case tree.Binary(op="@", left=left, right=right):
                return self.operation("apply", expr, (left, right), place)
            case tree.Binary(op=op, left=left, right=right):
                return self.operation(_BINARY[op], expr, (left, right), place)
            case tree.Conditional(condition=condition, then=then, otherwise=otherwise):
                return self._conditional(expr, condition, then, otherwise, place)
            case tree.Call():
                return call(self, expr, place)

    def operation(
        self,
        op: str,
        expr: tree.Expr,
        operands: tuple[tree.Expr, ...],
        place: SourceLocation,
        attrs: tuple[Attribute, ...] = (),
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
        place: SourceLocation,
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
            self.fail(mismatch.code, span, guess(mismatch, op, args, operands), **mismatch.values)
            return None
        try:
            value = value_of(op, [self.static_value(arg) for arg in args])
        except NoValue as none:
            if not self.unreachable:
                self.fail("E0229", place.span, written=_short(place.snippet), reason=none.reason)
            return None
        if value is not None:
            self.known[id(node)] = node, value
        return node

    def _conditional(
        self, expr: tree.Expr, condition: tree.Expr, then: tree.Expr, otherwise: tree.Expr, place: SourceLocation
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

    def _name(self, expr: tree.Name, place: SourceLocation) -> Node | None:
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
            self.fail("E0219", expr.span, name=name)
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

    def _unknown(self, name: str, span: Span) -> Node | None:
        if name in names.SIGNALS or name in names.FORWARD or name in names.COUNTERS or name in names.SIZES:
            sees = {"optimizer": "an optimizer: it sees one parameter `p` and its pseudo-gradient `g`"}
            where = "in " + sees.get(self.kind, "a constraint: it sees the weights of a layer, not its activity")
            self.fail("E0213", span, name=name, where=where)
        elif name in names.FUNCTIONS or name in names.DISTRIBUTIONS:
            self.fail("E0201", span, f"`{name}` is {names.meaning(name)}: write `{name}(...)`", name=name)
        elif name in names.AXES or name in names.SPACES:
            means = (
                f"an axis, as in `mean(v, {name})`" if name in names.AXES else f"a space, as in `state s : {name} = 0`"
            )
            self.fail("E0201", span, f"`{name}` is {means}", name=name)
        else:
            self.fail("E0201", span, names.suggestion(name, self.names_in_sight()), name=name)
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

    def _indexed(self, expr: tree.Index, place: SourceLocation) -> Node | None:
        self.used.add(expr.id)
        known = (expr.id == "delta" and self.kind == "rule") or expr.id in self.families
        if expr.id in self.untyped:
            return None
        if not known:
            if expr.id in self.names_in_sight():
                self.fail("E0221", expr.span, name=expr.id)
            else:
                self._unknown(expr.id, expr.span)
            return None
        if self.index != expr.index:
            self.fail("E0220", expr.span, name=expr.id, index=expr.index)
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
