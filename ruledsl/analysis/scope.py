"""The scope of an expression: which names it may use, what is known of them, and where mistakes are reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ruledsl.analysis import names
from ruledsl.analysis.suggestions import guess
from ruledsl.diagnostics import Diagnostics
from ruledsl.ir import nodes
from ruledsl.ir.constants import NoValue, value_of
from ruledsl.ir.nodes import Attribute, Node
from ruledsl.ir.operation import Value
from ruledsl.ir.operations import OPERATIONS, Infix, make, typed
from ruledsl.ir.type_rules import Mismatch
from ruledsl.ir.types import Type, activity
from ruledsl.language import tree
from ruledsl.source import Source, SourceLocation, Span

_OF_POSITIONS = ("apply", "outer")


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
    untyped: set[str] = field(default_factory=set)  # declared with a type that has a mistake in it
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
        """The scope for an expression that stands in another text, where its mistakes are then shown."""
        return self if text is self.text else replace(self, text=text)

    # --- reporting ---

    def fail(self, code: str, span: Span, help: str | None = None, **values: object) -> None:
        self.diagnostics.add(code, span, help=help, text=self.text, **values)

    def names_in_sight(self) -> list[str]:
        return [*names.VISIBLE[self.kind], *self.declared, *self.scalars, *self.constants, *self.lets]

    # --- nodes ---

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
            position = None if _about_all(op, mismatch) else mismatch.argument
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

    def static_value(self, node: Node) -> float | bool | None:
        """The value of a node that depends on nothing but constants, else None."""
        if node.op == "const":
            return node.constant
        found = self.known.get(id(node))
        return found[1] if found else None


def _about_all(op: str, mismatch: Mismatch) -> bool:
    """Whether it is the whole expression that does not fit together, and no single operand."""
    if mismatch.code == "E0301":
        written = OPERATIONS[op].written
        return op == "where" or (isinstance(written, Infix) and written.everywhere)
    return op == "apply" and mismatch.code == "E0306"


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
