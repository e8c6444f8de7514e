"""Productions of the grammar -> nodes of the tree, from the leaves up: one function for each name in grammar.lark.

A function gets the values of its production, tokens included, and the stretch of text that they cover.
Nothing here calls itself, so that text of any depth is safe to read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, cast

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


def build(builder: str, values: Values) -> Any:
    """The value of a production; raises Refused."""
    span = values[0].span.to(values[-1].span)
    return BUILDERS[builder](values, span)


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


# --- expressions -------------------------------------------------------------------------------------------


def _binary(v: Values, span: Span) -> Expr:
    return tree.Binary.model_construct(span=span, op=v[1].text, left=v[0], right=v[2])


def _unary(v: Values, span: Span) -> Expr:
    return tree.Unary.model_construct(span=span, op=v[0].text, operand=v[1])


def _conditional(v: Values, span: Span) -> Expr:
    return tree.Conditional.model_construct(span=span, condition=v[1], then=v[3], otherwise=v[5])


def _transpose(v: Values, span: Span) -> Expr:
    return tree.Transpose.model_construct(span=span, operand=v[0])


def _group(v: Values, span: Span) -> Expr:
    """`(a + b)` is `a + b`, except that the place of it includes the brackets."""
    return cast(Expr, v[1].model_copy(update={"span": span}))


def _number(v: Values, span: Span) -> Expr:
    return tree.Number.model_construct(span=span, value=float(v[0].text), text=v[0].text)


def _boolean(v: Values, span: Span) -> Expr:
    return tree.Boolean.model_construct(span=span, value=v[0].text == "true")


def _name(v: Values, span: Span) -> Expr:
    return tree.Name.model_construct(span=span, id=v[0].text)


def _index(v: Values, span: Span) -> Expr:
    return tree.Index.model_construct(span=span, id=v[0].text, index=v[2].text)


def _call(v: Values, span: Span) -> Expr:
    function = Ident.model_construct(span=v[0].span, id=v[0].text)
    arguments = [value for value in v[2:-1] if not isinstance(value, Token)]
    keywords = _keywords(arguments)
    args = tuple(arguments[: len(arguments) - len(keywords)])
    for late in args:
        if isinstance(late, Keyword):
            reason = "an argument without a name comes before all arguments with one"
            misplaced = next(a for a in arguments[arguments.index(late) :] if not isinstance(a, Keyword))
            raise Refused(report("E0110", misplaced.span, written=short(print_expression(misplaced)), reason=reason))
    return tree.Call.model_construct(span=span, function=function, args=args, keywords=keywords)


def _keywords(arguments: Values) -> tuple[Keyword, ...]:
    """The arguments with a name, each given once; raises Refused."""
    keywords = tuple(argument for argument in arguments if isinstance(argument, Keyword))
    seen: set[str] = set()
    for keyword in keywords:
        if keyword.name.id in seen:
            raise Refused(report("E0110", keyword.span, written=short(keyword.name.id), reason="it is given twice"))
        seen.add(keyword.name.id)
    return keywords


def _keyword(v: Values, span: Span) -> Keyword:
    return Keyword.model_construct(span=span, name=v[0], value=v[2])


# --- pieces ------------------------------------------------------------------------------------------------


def _ident(v: Values, span: Span) -> Ident:
    return Ident.model_construct(span=span, id=v[0].text)


def _text(token: Token) -> str:
    return re.sub(r'\\(["\\])', r"\1", token.text[1:-1])


def _doc(v: Values) -> str | None:
    """The text at the end of a declaration, where there is one."""
    return _text(v[-1]) if isinstance(v[-1], Token) and v[-1].type == "STRING" else None


def _space(v: Values, span: Span) -> tree.SpaceRef:
    return tree.SpaceRef.model_construct(span=span, id=v[0].text, index=v[2].text if len(v) > 1 else None)


def _type(v: Values, span: Span) -> tree.TypeRef:
    return tree.TypeRef.model_construct(span=span, source=v[0] if len(v) > 1 else None, target=v[-1])


def _interval(v: Values, span: Span) -> tree.Interval:
    return tree.Interval.model_construct(
        span=span, low=v[2], high=v[4], low_closed=v[1].text == "[", high_closed=v[5].text == "]"
    )


def _by(v: Values) -> Ident | None:
    return v[-1].name if isinstance(v[-1], _Second) else None


# --- items -------------------------------------------------------------------------------------------------


def _source(v: Values, span: Span) -> Item:
    return tree.Source.model_construct(span=span, text=_text(v[1]))


def _param(v: Values, span: Span) -> Item:
    static = v[0].type == "STATIC"
    _, name, _, default, *rest = v[static:]
    interval = rest[0] if rest and isinstance(rest[0], tree.Interval) else None
    return tree.Param.model_construct(
        span=span, name=name, default=default, interval=interval, doc=_doc(v), static=static
    )


def _declaration(v: Values, span: Span) -> Item:
    return tree.Declaration.model_construct(
        span=span, kind=v[0].text, name=v[1], type=v[3], random=v[4].text == "~", initial=v[5], doc=_doc(v)
    )


def _let(v: Values, span: Span) -> Item:
    return tree.Let.model_construct(span=span, name=v[1], value=v[3])


def _primitive(v: Values, span: Span) -> Item:
    return tree.Primitive.model_construct(span=span, name=v[1], value=v[3])


def _feedback(v: Values, span: Span) -> Item:
    return tree.Feedback.model_construct(span=span, slot=v[1], value=v[3])


def _grad(v: Values, span: Span) -> Item:
    return tree.Grad.model_construct(span=span, target=v[1], value=v[3], by=_by(v))


def _assign(v: Values, span: Span) -> Item:
    return tree.Assign.model_construct(span=span, target=v[0], value=v[2])


def _minimize(v: Values, span: Span) -> Item:
    return tree.Minimize.model_construct(span=span, energy=v[1], over=v[3].names, by=_by(v))


def _optimizer_choice(v: Values, span: Span) -> Item:
    return tree.OptimizerChoice.model_construct(span=span, slot=v[1], value=_shallow(v[3]))


def _when(v: Values, span: Span) -> Item:
    return tree.When.model_construct(span=span, condition=v[1], body=v[2].items)


def _after_step(v: Values, span: Span) -> Item:
    return tree.AfterStep.model_construct(span=span, body=v[2].items)


def _drive(v: Values, span: Span) -> Item:
    return tree.Drive.model_construct(span=span, signal=v[1], value=v[3])


def _phase(v: Values, span: Span) -> Item:
    return tree.Phase.model_construct(span=span, name=v[1], body=v[2].items)


def _schedule(v: Values, span: Span) -> Item:
    return tree.Schedule.model_construct(span=span, entries=tuple(v[2:-1]))


def _locality(v: Values, span: Span) -> Item:
    return tree.Locality.model_construct(span=span, clauses=tuple(v[2:-1]))


def _clause(v: Values, span: Span) -> tree.Clause:
    sink = v[-1].name if isinstance(v[-1], _Second) else None
    return tree.Clause.model_construct(span=span, verb=v[0].text, channel=v[1], argument=v[3], sink=sink)


def _extends(v: Values, span: Span) -> Item:
    return tree.Extends.model_construct(span=span, name=v[1])


def _use(v: Values, span: Span) -> Item:
    keywords = _keywords(v[2:])
    for keyword in keywords:
        _shallow(keyword.value)
    return tree.Use.model_construct(span=span, name=v[1], keywords=keywords)


def _definition(v: Values, span: Span) -> tree.Definition:
    title = _text(v[2]) if len(v) > 3 else None
    return tree.Definition.model_construct(span=span, kind=v[0].text, name=v[1], title=title, body=v[-1].items)


BUILDERS: dict[str, Callable[[Values, Span], object]] = {
    "expression": lambda v, span: _shallow(v[0]),
    "body": lambda v, span: _Body(tuple(v[1:-1]), span),
    "names": lambda v, span: _Names(tuple(value for value in v if isinstance(value, Ident)), span),
    "by": lambda v, span: _Second(v[1], span),
    "sink": lambda v, span: _Second(v[1], span),
    "first": lambda v, span: tree.First.model_construct(span=span, count=v[1], phases=v[4].names),
    "each": lambda v, span: tree.Each.model_construct(span=span, phases=v[3].names),
    "alternate": lambda v, span: tree.Alternate.model_construct(span=span, phases=v[2].names),
    **{
        function.__name__.removeprefix("_"): function
        for function in (
            _binary, _unary, _conditional, _transpose, _group, _number, _boolean, _name, _index, _call, _keyword,
            _ident, _space, _type, _interval, _source, _param, _declaration, _let, _primitive, _feedback, _grad,
            _assign, _minimize, _optimizer_choice, _when, _after_step, _drive, _phase, _schedule, _locality, _clause,
            _extends, _use, _definition,
        )
    },
}  # fmt: skip
