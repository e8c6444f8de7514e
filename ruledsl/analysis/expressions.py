"""Type an expression: from the tree to typed nodes, every name looked up, every mistake reported once.

`expression` gives None after reporting a mistake; whatever contains the mistake is then None as well, without a
message of its own.
"""

from __future__ import annotations

from dataclasses import replace

from ruledsl.analysis import names
from ruledsl.analysis.calls import call, operation
from ruledsl.analysis.scope import Lazy, Scope
from ruledsl.ir import nodes
from ruledsl.ir.nodes import Node
from ruledsl.ir.operations import FUNCTIONS, SYMBOLS
from ruledsl.ir.types import PARAMETER, POST, activity
from ruledsl.language import tree
from ruledsl.source import SourceLocation, Span

DEEPEST = 100  # names that are defined by names that are defined by ...


def expression(scope: Scope, expr: tree.Expr) -> Node | None:
    """The typed node of an expression, or None after reporting what is wrong with it."""
    place = SourceLocation(expr.span, scope.text)
    match expr:
        case tree.Number(value=value):
            return nodes.const(value, place=place)
        case tree.Boolean(value=value):
            return nodes.const(value, place=place)
        case tree.Name():
            return _name(scope, expr, place)
        case tree.Index():
            return _indexed(scope, expr, place)
        case tree.Transpose(operand=operand):
            return operation(scope, "transpose", (operand,), place, expression)
        case tree.Unary(op=op, operand=operand):
            return operation(scope, "neg" if op == "-" else "not", (operand,), place, expression)
        case tree.Binary(op=op, left=left, right=right):
            return operation(scope, SYMBOLS[op], (left, right), place, expression)
        case tree.Conditional(condition=condition, then=then, otherwise=otherwise):
            return _conditional(scope, condition, then, otherwise, place)
        case tree.Call():
            return call(scope, expr, place, expression)


def _conditional(
    scope: Scope, condition: tree.Expr, then: tree.Expr, otherwise: tree.Expr, place: SourceLocation
) -> Node | None:
    decides = expression(scope, condition)
    if decides is not None and decides.type.boolean and (chosen := scope.static_value(decides)) is not None:
        scope.unreachable.append(otherwise if chosen else then)
        expression(scope, scope.unreachable[-1])  # for its names and types
        scope.unreachable.pop()
        return expression(scope, then if chosen else otherwise)
    first, second = expression(scope, then), expression(scope, otherwise)
    if decides is None or first is None or second is None:
        return None
    return scope.build("where", (decides, first, second), (condition, then, otherwise), place)


# --- names ---


def _name(scope: Scope, expr: tree.Name, place: SourceLocation) -> Node | None:
    name = expr.id
    scope.used.add(name)
    if name in scope.lets:
        return _let(scope, scope.lets[name])
    if name in scope.constants:
        return nodes.const(scope.constants[name], place=place)
    if name in scope.scalars:
        return nodes.scalar(name, place)
    if name in scope.untyped:
        return None
    if name in scope.families:
        scope.fail("E0219", expr.span, name=name)
        return None
    if name in scope.declared:
        return nodes.tensor(name, scope.declared[name], place=place)
    if name in names.VISIBLE[scope.kind]:
        if name in ("p", "g"):
            leaf = nodes.tensor if name == "p" else nodes.signal
            return leaf(name, PARAMETER, place=place)
        if name in names.FORWARD:
            return nodes.tensor(name, names.FORWARD[name], place=place)
        if name in names.SIGNALS:
            return nodes.signal(name, names.SIGNALS[name], place=place)
        return nodes.scalar(name, place)
    return _unknown(scope, name, expr.span)


def _unknown(scope: Scope, name: str, span: Span) -> Node | None:
    if name in names.SIGNALS or name in names.FORWARD or name in names.COUNTERS or name in names.SIZES:
        sees = {"optimizer": "an optimizer: it sees one parameter `p` and its pseudo-gradient `g`"}
        where = "in " + sees.get(scope.kind, "a constraint: it sees the weights of a layer, not its activity")
        scope.fail("E0213", span, name=name, where=where)
    elif name in FUNCTIONS or name in names.DISTRIBUTIONS:
        scope.fail("E0201", span, f"`{name}` is {names.meaning(name)}: write `{name}(...)`", name=name)
    elif name in names.AXES or name in names.SPACES:
        means = f"an axis, as in `mean(v, {name})`" if name in names.AXES else f"a space, as in `state s : {name} = 0`"
        scope.fail("E0201", span, f"`{name}` is {means}", name=name)
    else:
        scope.fail("E0201", span, names.suggestion(name, scope.names_in_sight()), name=name)
    return None


def _let(scope: Scope, let: Lazy) -> Node | None:
    key = id(let)
    if key in scope.typed_lets:
        return scope.typed_lets[key][1]
    if let.ident.id in scope.typing:
        path = [*scope.typing[scope.typing.index(let.ident.id) :], let.ident.id]
        scope.diagnostics.add("E0209", let.ident.span, text=let.text, name=let.ident.id, cycle=" -> ".join(path))
        return None
    if len(scope.typing) > DEEPEST:
        help = "write every `let` after those that it uses"
        scope.diagnostics.add("E0105", let.ident.span, help=help, text=let.text, limit=DEEPEST)
        return None
    scope.typing.append(let.ident.id)
    outside = replace(scope.at(let.text), index=None)
    node = expression(outside, let.value)
    scope.typing.pop()
    if node is not None and not node.is_leaf and node.name is None:
        value = scope.static_value(node)
        node = replace(node, name=let.ident.id)
        if value is not None:
            scope.known[id(node)] = node, value
    scope.typed_lets[key] = let, node  # the key is its id, which must not be used again
    return node


def _indexed(scope: Scope, expr: tree.Index, place: SourceLocation) -> Node | None:
    scope.used.add(expr.id)
    known = (expr.id == "delta" and scope.kind == "rule") or expr.id in scope.families
    if expr.id in scope.untyped:
        return None
    if not known:
        if expr.id in scope.names_in_sight():
            scope.fail("E0221", expr.span, name=expr.id)
        else:
            _unknown(scope, expr.id, expr.span)
        return None
    if scope.index != expr.index:
        scope.fail("E0220", expr.span, name=expr.id, index=expr.index)
        return None
    space = replace(POST, index=expr.index)
    if expr.id == "delta":
        return nodes.signal("delta", activity(space), expr.index, place)
    declared = scope.declared[expr.id]
    return nodes.tensor(expr.id, replace(declared, source=space), expr.index, place)


def named(scope: Scope, name: str) -> Node | None:
    """The value of a `let` or `primitive` of this scope."""
    return _let(scope, scope.lets[name])
