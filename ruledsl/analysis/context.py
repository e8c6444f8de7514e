"""What typing a definition needs everywhere: its context, constants, and whether a value fits where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ruledsl.analysis.expressions import expression
from ruledsl.analysis.resolve import Flat, Located
from ruledsl.analysis.scope import Lazy, Scope
from ruledsl.analysis.typed import TypedRule
from ruledsl.diagnostics import Diagnostics
from ruledsl.ir import nodes
from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.types import Type
from ruledsl.language import tree
from ruledsl.source import Source, SourceLocation, Span

Values = Mapping[str, float | bool]


@dataclass
class Context:
    """One definition on its way from a flat list of items to a `TypedRule`.

    values  what the caller sets parameters to; `places` says where these values were written, if in a rule
    scope   of the expressions in the body of the definition
    rule    what has been typed so far
    """

    flat: Flat
    values: Values
    diagnostics: Diagnostics
    places: Mapping[str, SourceLocation]
    scope: Scope = field(init=False)
    rule: TypedRule = field(init=False)

    def __post_init__(self) -> None:
        self.scope = Scope(self.kind, self.diagnostics, self.flat.text)
        self.rule = TypedRule(self.flat, {}, {}, {})

    @property
    def kind(self) -> str:
        """`rule`, `optimizer` or `constraint`."""
        return self.flat.definition.kind

    def report(self, code: str, span: Span, text: Source, help: str | None = None, **values: object) -> None:
        """Report a mistake."""
        self.diagnostics.add(code, span, help=help, text=text, **values)


def constant(context: Context, expr: tree.Expr, text: Source) -> float | bool | None:
    """The value of an expression that has to be known when the rule is compiled, or None after reporting."""
    node = expression(context.scope.at(text), expr)
    if node is None:
        return None
    value = context.scope.static_value(node)
    if value is None:
        read = nodes.reads(node)
        help = "a `static param` is known; it has to stand above" if read <= context.scope.scalars else None
        reason = ", ".join(f"`{name}`" for name in sorted(read)) or "what happens during the training"
        context.report("E0208", expr.span, text, help, reason=reason)
    return value


def expect(context: Context, node: Node | None, type: Type, what: str, expr: tree.Expr, text: Source) -> Node | None:
    """The node if it can stand where a value of `type` is wanted, or None after reporting that it can't."""
    if node is None or fits(node.type, type):
        return node
    help = transposed_help(node.type, type, expr)
    context.report("E0319", expr.span, text, help, what=what, wanted=type.in_words, found=node.type.in_words)
    return None


def available(context: Context, node: Node, where: str, signals: Iterable[str], but: Iterable[str] = ()) -> None:
    """Report what can't be read here: signals other than the given ones, and the tensors in `but`."""
    allowed, hidden = set(signals), set(but)
    for part in walk(node):
        name = str(part.attrs[0]) if part.op in ("signal", "tensor") else ""
        unknown = name in hidden if part.op == "tensor" else name not in allowed
        if name and unknown and part.place:
            context.report("E0213", part.place.span, part.place.text, name=name, where=where)


def lets_of(items: Iterable[Located]) -> dict[str, Lazy]:
    """The named expressions among some items."""
    return {
        located.item.name.id: Lazy(located.item.name, located.item.value, located.text)
        for located in items
        if isinstance(located.item, tree.Let | tree.Primitive)
    }


def fits(found: Type, wanted: Type) -> bool:
    """Whether a value of one type can stand where another is wanted: a scalar can stand for a value everywhere."""
    if found.boolean:
        return False
    if found.kind == "scalar":
        return True
    if found.kind == wanted.kind == "vector" and found.target == wanted.target:
        return found.axes <= wanted.axes
    return found == wanted


def transposed_help(found: Type, wanted: Type, expr: tree.Expr) -> str | None:
    """A help line where the transpose would fit."""
    if found.kind == wanted.kind == "map" and found.transposed == wanted:
        return "transpose it: add `.T`"
    return None


def spelled(value: float | bool) -> str:
    """A constant as the language spells it."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def listed(known: Iterable[str]) -> str | None:
    """A help line that lists what there is."""
    ordered = sorted(known)
    return f"there is {', '.join(f'`{name}`' for name in ordered)}" if ordered else None
