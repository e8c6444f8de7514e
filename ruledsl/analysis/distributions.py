"""Distributions: what stands after `~` and in a `drive`."""

from __future__ import annotations

import math

from ruledsl.analysis import names
from ruledsl.analysis.calls import keywords
from ruledsl.analysis.expressions import expression
from ruledsl.analysis.scope import Scope
from ruledsl.ir.nodes import Node
from ruledsl.ir.operation import Value
from ruledsl.ir.types import SCALAR, Type
from ruledsl.language import tree
from ruledsl.source import SourceLocation, Span


def distribution(scope: Scope, expr: tree.Expr, type: Type) -> Node | None:
    """What stands after `~` or in a `drive`: a draw of the given type."""
    if not isinstance(expr, tree.Call) or expr.function.id not in names.DISTRIBUTIONS:
        close = names.suggestion(expr.function.id, names.DISTRIBUTIONS) if isinstance(expr, tree.Call) else None
        help = f"one of {', '.join(names.DISTRIBUTIONS)}; an expression stands after `=`"
        scope.fail("E0218", expr.function.span if isinstance(expr, tree.Call) else expr.span, close or help)
        return None
    kind = expr.function.id
    if kind in ("xavier", "kaiming", "orthogonal") and type.kind != "map":
        values = {"what": f"what `{kind}()` draws", "wanted": "a map", "found": type.in_words}
        scope.fail("E0319", expr.span, **values)
        return None
    wanted = names.DISTRIBUTIONS[kind]
    given: dict[str, tree.Expr] = dict(zip(wanted, expr.args, strict=False))
    if not keywords(scope, expr, wanted):
        return None
    given.update({keyword.name.id: keyword.value for keyword in expr.keywords})
    if len(expr.args) + len(expr.keywords) != len(wanted) or len(given) != len(wanted):
        count = len(expr.args) + len(expr.keywords)
        plural = "s" if len(wanted) != 1 else ""
        expected = f"{len(wanted)} argument{plural} ({', '.join(wanted)})" if wanted else "no arguments"
        found = f"there {'is' if count == 1 else 'are'} {count}" if count != len(wanted) else "one is given twice"
        scope.fail("E0210", expr.span, function=kind, expected=expected, found=found)
        return None
    args: list[Node] = []
    for name in wanted:
        node = expression(scope, given[name])
        if node is None:
            return None
        if node.type != SCALAR:
            values = {"what": f"the {name} of a distribution", "wanted": "a scalar", "found": node.type.in_words}
            scope.fail("E0319", given[name].span, **values)
            return None
        args.append(node)
    if not _possible(scope, kind, [scope.static_value(arg) for arg in args], [given[name].span for name in wanted]):
        return None
    return Node("random", tuple(args), (kind,), type, SourceLocation(expr.span, scope.text))


def _possible(scope: Scope, kind: str, values: list[Value | None], spans: list[Span]) -> bool:
    """Whether there is such a distribution, as far as its arguments are known; reports the one that is wrong."""
    for name, value, span in zip(names.DISTRIBUTIONS[kind], values, spans, strict=True):
        low, high, interval = {
            "std": (0.0, math.inf, "[0, inf)"),
            "p": (0.0, 1.0, "[0, 1]"),
            "high": (values[0] if values[0] is not None else -math.inf, math.inf, f"[{values[0] or 0:g}, inf)"),
        }.get(name, (-math.inf, math.inf, "(-inf, inf)"))
        if value is not None and (not low <= value <= high or math.isinf(value)):
            scope.fail("E0211", span, name=name, value=f"{value:g}", interval=interval)
            return False
    return True
