"""Productions of the grammar -> nodes of the tree, from the leaves up, while Lark reads.

Nothing here calls itself, so that text of any depth is safe to read, and nothing changes a value that it was given,
so that the parser may read a statement twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from lark import Transformer, v_args

from ruledsl.diagnostics import Diagnostic, report
from ruledsl.language import tree
from ruledsl.language.lexer import Token, short
from ruledsl.language.printer import print_expression
from ruledsl.language.tree import Expr, Ident, Item, Keyword
from ruledsl.source import Span

DEEPEST = 100  # levels of an expression, of brackets, or of blocks

Values = list[Any]


class Refused(Exception):
    """A production that the grammar allows and the language does not; `diagnostic` says why."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(diagnostic.message)


class _Body(NamedTuple):
    items: tuple[Item, ...]
    span: Span


class _Names(NamedTuple):
    names: tuple[Ident, ...]
    span: Span


class _Second(NamedTuple):
    """What follows `by` and `->`."""

    name: Ident
    span: Span


class _Chain(NamedTuple):
    """A sequence that grows at its end and of which every beginning stays as it was."""

    before: _Chain | None
    last: Any


def children(expr: Expr) -> tuple[Expr, ...]:
    """The expressions that an expression consists of."""
    match expr:
        case tree.Binary():
            return (expr.left, expr.right)
        case tree.Unary() | tree.Transpose():
            return (expr.operand,)
        case tree.Conditional():
            return (expr.condition, expr.then, expr.otherwise)
        case tree.Call():
            return (*expr.args, *(keyword.value for keyword in expr.keywords))
        case _:
            return ()


def too_deep(span: Span) -> Refused:
    """The complaint about an expression or block of more than DEEPEST levels."""
    help = "give names to its parts with `let`"
    return Refused(report("E0105", span, help=help, limit=DEEPEST))


def _shallow(expr: Expr) -> Expr:
    """The expression, if it has no more than DEEPEST levels; raises Refused."""
    level = [expr]
    for _ in range(DEEPEST):
        level = [child for parent in level for child in children(parent)]
        if not level:
            return expr
    raise too_deep(expr.span)


def _keywords(arguments: Values) -> tuple[Keyword, ...]:
    """The arguments with a name, each given once; raises Refused."""
    keywords = tuple(argument for argument in arguments if isinstance(argument, Keyword))
    seen: set[str] = set()
    for keyword in keywords:
        if keyword.name.id in seen:
            raise Refused(report("E0110", keyword.span, written=short(keyword.name.id), reason="it is given twice"))
        seen.add(keyword.name.id)
    return keywords


def _text(token: Token) -> str:
    return re.sub(r'\\(["\\])', r"\1", token.value[1:-1])


def _doc(v: Values) -> str | None:
    """The text at the end of a declaration, where there is one."""
    return _text(v[-1]) if isinstance(v[-1], Token) and v[-1].type == "STRING" else None


def _by(v: Values) -> Ident | None:
    return v[-1].name if isinstance(v[-1], _Second) else None


def _in_order(chain: _Chain | None) -> tuple[Any, ...]:
    """The parts of a sequence, from its first."""
    parts = []
    while chain is not None:
        parts.append(chain.last)
        chain = chain.before
    return tuple(reversed(parts))


def _with_span(method: Callable[[Values, Span], Any], name: str, values: Values, meta: object) -> Any:
    """Give a method, besides the values of its production, the stretch of text that they cover."""
    return method(values, values[0].span.to(values[-1].span))


@v_args(wrapper=_with_span)
class TreeBuilder(Transformer[Token, tuple[tree.Definition, ...]]):
    """The callbacks of Lark: one method for each name in grammar.lark, which raises Refused.

    A method gets the values of its production, signs and keywords included.
    """

    @v_args(inline=True)
    def start(self, definitions: _Chain | None) -> tuple[tree.Definition, ...]:
        return _in_order(definitions)

    @v_args(inline=True)
    def sequence(self, before: _Chain | None = None, *part: Any) -> _Chain | None:
        return _Chain(before, *part) if part else None

    def definition(self, v: Values, span: Span) -> tree.Definition:
        title = _text(v[2]) if len(v) > 3 else None
        return tree.Definition.model_construct(span=span, kind=v[0].value, name=v[1], title=title, body=v[-1].items)

    def body(self, v: Values, span: Span) -> _Body:
        return _Body(_in_order(v[1]), span)

    # --- expressions -------------------------------------------------------------------------------------------

    def binary(self, v: Values, span: Span) -> Expr:
        return tree.Binary.model_construct(span=span, op=v[1].value, left=v[0], right=v[2])

    def unary(self, v: Values, span: Span) -> Expr:
        return tree.Unary.model_construct(span=span, op=v[0].value, operand=v[1])

    def conditional(self, v: Values, span: Span) -> Expr:
        return tree.Conditional.model_construct(span=span, condition=v[1], then=v[3], otherwise=v[5])

    def transpose(self, v: Values, span: Span) -> Expr:
        return tree.Transpose.model_construct(span=span, operand=v[0])

    def group(self, v: Values, span: Span) -> Expr:
        """`(a + b)` is `a + b`, except that the place of it includes the brackets."""
        return cast(Expr, v[1].model_copy(update={"span": span}))

    def number(self, v: Values, span: Span) -> Expr:
        return tree.Number.model_construct(span=span, value=float(v[0].value), text=v[0].value)

    def boolean(self, v: Values, span: Span) -> Expr:
        return tree.Boolean.model_construct(span=span, value=v[0].value == "true")

    def name(self, v: Values, span: Span) -> Expr:
        return tree.Name.model_construct(span=span, id=v[0].value)

    def index(self, v: Values, span: Span) -> Expr:
        return tree.Index.model_construct(span=span, id=v[0].value, index=v[2].value)

    def call(self, v: Values, span: Span) -> Expr:
        function = Ident.model_construct(span=v[0].span, id=v[0].value)
        arguments = [value for value in v[2:-1] if not isinstance(value, Token)]
        keywords = _keywords(arguments)
        args = tuple(argument for argument in arguments if not isinstance(argument, Keyword))
        late = next((arg for arg, argument in zip(args, arguments, strict=False) if arg is not argument), None)
        if late is not None:
            reason = "an argument without a name comes before all arguments with one"
            written = short(print_expression(_shallow(late)))
            raise Refused(report("E0110", late.span, written=written, reason=reason))
        return tree.Call.model_construct(span=span, function=function, args=args, keywords=keywords)

    def keyword(self, v: Values, span: Span) -> Keyword:
        return Keyword.model_construct(span=span, name=v[0], value=v[2])

    # --- pieces ------------------------------------------------------------------------------------------------

    def ident(self, v: Values, span: Span) -> Ident:
        return Ident.model_construct(span=span, id=v[0].value)

    def space(self, v: Values, span: Span) -> tree.SpaceRef:
        return tree.SpaceRef.model_construct(span=span, id=v[0].value, index=v[2].value if len(v) > 1 else None)

    def type(self, v: Values, span: Span) -> tree.TypeRef:
        return tree.TypeRef.model_construct(span=span, source=v[0] if len(v) > 1 else None, target=v[-1])

    def interval(self, v: Values, span: Span) -> tree.Interval:
        return tree.Interval.model_construct(
            span=span, low=v[2], high=v[4], low_closed=v[1].value == "[", high_closed=v[5].value == "]"
        )

    # --- items -------------------------------------------------------------------------------------------------

    def source(self, v: Values, span: Span) -> Item:
        return tree.Source.model_construct(span=span, text=_text(v[1]))

    def param(self, v: Values, span: Span) -> Item:
        static = v[0].type == "STATIC"
        _, name, _, default, *rest = v[static:]
        interval = rest[0] if rest and isinstance(rest[0], tree.Interval) else None
        return tree.Param.model_construct(
            span=span, name=name, default=default, interval=interval, doc=_doc(v), static=static
        )

    def declaration(self, v: Values, span: Span) -> Item:
        return tree.Declaration.model_construct(
            span=span, kind=v[0].value, name=v[1], type=v[3], random=v[4].value == "~", initial=v[5], doc=_doc(v)
        )

    def let(self, v: Values, span: Span) -> Item:
        return tree.Let.model_construct(span=span, name=v[1], value=v[3])

    def primitive(self, v: Values, span: Span) -> Item:
        return tree.Primitive.model_construct(span=span, name=v[1], value=v[3])

    def feedback(self, v: Values, span: Span) -> Item:
        return tree.Feedback.model_construct(span=span, slot=v[1], value=v[3])

    def grad(self, v: Values, span: Span) -> Item:
        return tree.Grad.model_construct(span=span, target=v[1], value=v[3], by=_by(v))

    def assign(self, v: Values, span: Span) -> Item:
        return tree.Assign.model_construct(span=span, target=v[0], value=v[2])

    def minimize(self, v: Values, span: Span) -> Item:
        return tree.Minimize.model_construct(span=span, energy=v[1], over=v[3].names, by=_by(v))

    def optimizer_choice(self, v: Values, span: Span) -> Item:
        return tree.OptimizerChoice.model_construct(span=span, slot=v[1], value=_shallow(v[3]))

    def when(self, v: Values, span: Span) -> Item:
        return tree.When.model_construct(span=span, condition=v[1], body=v[2].items)

    def after_step(self, v: Values, span: Span) -> Item:
        return tree.AfterStep.model_construct(span=span, body=v[2].items)

    def drive(self, v: Values, span: Span) -> Item:
        return tree.Drive.model_construct(span=span, signal=v[1], value=v[3])

    def phase(self, v: Values, span: Span) -> Item:
        return tree.Phase.model_construct(span=span, name=v[1], body=v[2].items)

    def schedule(self, v: Values, span: Span) -> Item:
        return tree.Schedule.model_construct(span=span, entries=_in_order(v[2]))

    def locality(self, v: Values, span: Span) -> Item:
        return tree.Locality.model_construct(span=span, clauses=_in_order(v[2]))

    def clause(self, v: Values, span: Span) -> tree.Clause:
        sink = v[-1].name if isinstance(v[-1], _Second) else None
        places = [value for value in v if isinstance(value, tree.Name | tree.Index)]
        towards = places[1] if len(places) > 1 else None
        return tree.Clause.model_construct(
            span=span, verb=v[0].value, channel=v[1], argument=places[0], towards=towards, sink=sink
        )

    def extends(self, v: Values, span: Span) -> Item:
        return tree.Extends.model_construct(span=span, name=v[1])

    def use(self, v: Values, span: Span) -> Item:
        keywords = _keywords(v[2:])
        for keyword in keywords:
            _shallow(keyword.value)
        return tree.Use.model_construct(span=span, name=v[1], keywords=keywords)

    def expression(self, v: Values, span: Span) -> Expr:
        return _shallow(v[0])

    def names(self, v: Values, span: Span) -> _Names:
        return _Names(tuple(value for value in v if isinstance(value, Ident)), span)

    def by(self, v: Values, span: Span) -> _Second:
        return _Second(v[1], span)

    sink = by

    def first(self, v: Values, span: Span) -> tree.First:
        return tree.First.model_construct(span=span, count=v[1], phases=v[4].names)

    def each(self, v: Values, span: Span) -> tree.Each:
        return tree.Each.model_construct(span=span, phases=v[3].names)

    def alternate(self, v: Values, span: Span) -> tree.Alternate:
        return tree.Alternate.model_construct(span=span, phases=v[2].names)
