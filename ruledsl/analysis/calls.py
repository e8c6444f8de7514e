"""Functions in an expression: how many arguments they take, and which keywords and axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ruledsl.analysis import names
from ruledsl.analysis.scope import Scope
from ruledsl.ir.nodes import Attribute, Node, scalar
from ruledsl.ir.operations import CALLS, FUNCTIONS, make
from ruledsl.ir.types import AXES
from ruledsl.language import tree
from ruledsl.language.printer import print_expression
from ruledsl.source import SourceLocation

Expression = Callable[[Scope, tree.Expr], Node | None]
"""Types an argument: `ruledsl.analysis.expressions.expression`."""


def operation(
    scope: Scope,
    op: str,
    operands: tuple[tree.Expr, ...],
    place: SourceLocation,
    expression: Expression,
    attrs: tuple[Attribute, ...] = (),
) -> Node | None:
    """The operation on operands of which each is typed first; None where one of them has a mistake."""
    args = [expression(scope, operand) for operand in operands]
    if any(arg is None for arg in args):
        return None
    return scope.build(op, tuple(arg for arg in args if arg is not None), operands, place, attrs)


def call(scope: Scope, call: tree.Call, place: SourceLocation, expression: Expression) -> Node | None:
    """The typed node of a function and its arguments, or None after reporting what is wrong."""
    function = call.function.id
    signature = FUNCTIONS.get(function)
    if signature is None:
        _no_function(scope, call)
        return None
    if not keywords(scope, call, ("mean",) if signature.mean else ()):
        return None
    if signature.axis:
        return _over_axis(scope, call, place, expression)
    if not _arity(scope, call, signature.arity + signature.index):
        return None
    if signature.index:
        return _sum(scope, call, place, expression)
    if signature.mean:
        return _averaged(scope, call, place, expression)
    if function == "clip":
        return _clip(scope, call, place, expression)
    return operation(scope, CALLS[function], call.args, place, expression)


def _no_function(scope: Scope, call: tree.Call) -> None:
    function = call.function.id
    if function in names.DISTRIBUTIONS:
        scope.fail("E0217", call.span, "give it a name first: `fresh n : ... ~ normal(0, 1)`", name=function)
    else:
        scope.fail("E0204", call.function.span, names.suggestion(function, FUNCTIONS), name=function)


def _arity(scope: Scope, call: tree.Call, count: int) -> bool:
    if len(call.args) == count:
        return True
    arguments = f"{count} argument{'s' if count != 1 else ''}"
    found = f"there {'is' if len(call.args) == 1 else 'are'} {len(call.args)}"
    scope.fail("E0210", call.span, function=call.function.id, expected=arguments, found=found)
    return False


def keywords(scope: Scope, call: tree.Call, allowed: tuple[str, ...]) -> bool:
    """Whether the keywords are among the allowed ones; reports one that is not."""
    for keyword in call.keywords:
        if keyword.name.id not in allowed:
            help = names.suggestion(keyword.name.id, allowed)
            scope.fail("E0227", keyword.name.span, help, function=call.function.id, name=keyword.name.id)
            return False
    return True


def _clip(scope: Scope, call: tree.Call, place: SourceLocation, expression: Expression) -> Node | None:
    value, low, high = (expression(scope, arg) for arg in call.args)
    if value is None or low is None or high is None:
        return None
    above = scope.build("max", (value, low), call.args[:2], place)
    return above and scope.build("min", (above, high), (call.args[0], call.args[2]), place)


def _averaged(scope: Scope, call: tree.Call, place: SourceLocation, expression: Expression) -> Node | None:
    """`outer(a, b)`, `outer(a, b, mean=batch)`."""
    mean: str | None = None
    for keyword in call.keywords:
        word = keyword.value
        if not isinstance(word, tree.Name) or word.id not in ("batch", "all"):
            help = "`mean=batch` or `mean=all`"
            scope.fail("E0320", word.span, help, word=print_expression(word))
            return None
        mean = word.id
    if call.function.id == "total":
        return _total(scope, call, place, expression, mean)
    return operation(scope, CALLS[call.function.id], call.args, place, expression, (mean,))


def _total(
    scope: Scope, call: tree.Call, place: SourceLocation, expression: Expression, mean: str | None
) -> Node | None:
    """`total(v)`; with a mean, divided by the sizes of the axes that v has."""
    node = operation(scope, "total", call.args, place, expression)
    if node is None or mean is None:
        return node
    (value,) = node.args
    if "batch" in value.type.axes:
        node = replace(make("div", node, scalar("batch_size")), place=place)
    if mean == "all" and "positions" in value.type.axes:
        node = replace(make("div", node, make("count", value, attrs=("positions",))), place=place)
    return node


def _over_axis(scope: Scope, call: tree.Call, place: SourceLocation, expression: Expression) -> Node | None:
    """`mean(v, batch)`; `mean(M)` of a map."""
    function = call.function.id
    if len(call.args) not in (1, 2):
        _arity(scope, call, 2)
        return None
    value, axis = expression(scope, call.args[0]), None
    if len(call.args) == 2:
        word = call.args[1]
        if not isinstance(word, tree.Name) or word.id not in AXES:
            spelled = print_expression(word)
            scope.fail("E0320", word.span, names.suggestion(spelled, AXES) or f"one of {', '.join(AXES)}", word=spelled)
            return None
        axis = word.id
    if value is None:
        return None
    if function in CALLS:
        return scope.build(CALLS[function], (value,), call.args, place, (axis,))
    if value.type.kind != "vector":
        scope.fail("E0312", call.args[0].span, found=value.type.in_words)
        return None
    inner = "mean" if function == "center" else "l2_norm"
    reduced = scope.build(inner, (value,), call.args, place, (axis,))
    return reduced and scope.build("sub" if function == "center" else "div", (value, reduced), call.args, place)


def _sum(scope: Scope, call: tree.Call, place: SourceLocation, expression: Expression) -> Node | None:
    """`sum(k, ...)` over the layers downstream."""
    index = call.args[0]
    taken = isinstance(index, tree.Name) and (index.id in names.RESERVED or index.id in scope.names_in_sight())
    if not isinstance(index, tree.Name) or taken:
        found = "this has a meaning already" if taken else "this is none"
        scope.fail("E0210", index.span, function="sum", expected="a new name first: `sum(k, ...)`", found=found)
        return None
    if scope.index is not None:
        scope.fail("E0216", call.span, "add two sums instead", item="sum", where="another `sum`")
        return None
    node = expression(replace(scope, index=index.id), call.args[1])
    return node and scope.build(CALLS["sum"], (node,), (call.args[1],), place, (index.id,))
