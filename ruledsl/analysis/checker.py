"""What every chapter of the type checker shares: the scope, reporting, constants, and whether a value fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


class Checker:
    """One definition on its way from a flat list of items to a `TypedRule`."""

    def __init__(
        self, flat: Flat, values: Values, diagnostics: Diagnostics, places: Mapping[str, SourceLocation]
    ) -> None:
        self.flat, self.values, self.diagnostics, self.places = flat, values, diagnostics, places
        self.kind = flat.definition.kind
        self.scope = Scope(self.kind, diagnostics, flat.text)
        self.rule = TypedRule(flat, {}, {}, {})

    def _add(self, code: str, span: Span, text: Source, help: str | None = None, **values: object) -> None:
        self.diagnostics.add(code, span, help=help, text=text, **values)

    def _constant(self, expr: tree.Expr, text: Source) -> float | bool | None:
        node = expression(self.scope.at(text), expr)
        if node is None:
            return None
        value = self.scope.static_value(node)
        if value is None:
            read = ", ".join(f"`{name}`" for name in sorted(nodes.reads(node)))
            help = (
                "a `static param` is known; it has to stand above" if nodes.reads(node) <= self.scope.scalars else None
            )
            self._add("E0208", expr.span, text, help, reason=read or "what happens during the training")
        return value

    def _expect(self, node: Node | None, type: Type, what: str, expr: tree.Expr, text: Source) -> Node | None:
        if node is None or fits(node.type, type):
            return node
        help = transposed_help(node.type, type, expr)
        self._add("E0319", expr.span, text, help, what=what, wanted=type.in_words, found=node.type.in_words)
        return None

    def _available(self, node: Node, where: str, signals: Iterable[str], but: Iterable[str] = ()) -> None:
        """No signal but the given ones, and no tensor `but` those given, can be read here."""
        allowed, hidden = set(signals), set(but)
        for part in walk(node):
            name = str(part.attrs[0]) if part.op in ("signal", "tensor") else ""
            unknown = name in hidden if part.op == "tensor" else name not in allowed
            if name and unknown and part.place:
                self._add("E0213", part.place.span, part.place.text, name=name, where=where)


def lets_of(items: Iterable[Located]) -> dict[str, Lazy]:
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
    if found.kind == wanted.kind == "map" and found.transposed == wanted:
        return "transpose it: add `.T`"
    return None


def spelled(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def listed(known: Iterable[str]) -> str | None:
    ordered = sorted(known)
    return f"there is {', '.join(f'`{name}`' for name in ordered)}" if ordered else None
