"""Type what a definition declares: parameters with their intervals, tensors with their types and first values."""

from __future__ import annotations

import math

from ruledsl.analysis import names
from ruledsl.analysis.context import Context, available, constant, fits, listed, spelled, transposed_help
from ruledsl.analysis.distributions import distribution
from ruledsl.analysis.expressions import expression
from ruledsl.analysis.resolve import Located
from ruledsl.analysis.typed import Declared, Interval, Parameter
from ruledsl.ir.types import OUT, PARAMETER, POST, PRE, SCALAR, Space, Type, map_between, per_unit, synapses_exist
from ruledsl.language import tree
from ruledsl.source import Source, SourceLocation


def _interval(context: Context, item: tree.Param, text: Source) -> Interval | None:
    if item.interval is None:
        return None
    ends: list[float] = []
    for expr in (item.interval.low, item.interval.high):
        end = constant(context, expr, text)
        if isinstance(end, bool):
            context.report("E0302", expr.span, text, found="a condition")
        elif end is not None:
            ends.append(end)
    if len(ends) != 2:
        return None
    return Interval(ends[0], ends[1], item.interval.low_closed, item.interval.high_closed)


def possible(
    context: Context, name: str, value: object, switch: bool, interval: Interval | None, place: SourceLocation
) -> bool:
    """Whether a parameter can have this value; reports why not."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if switch != isinstance(value, bool) or not (switch or number):
        found = "a condition" if isinstance(value, bool) else "a number" if number else repr(value)
        wanted = "`true` or `false`" if switch else "a number"
        context.report("E0319", place.span, place.text, what=f"`{name}`", wanted=wanted, found=found)
    elif interval and value not in interval:
        assert isinstance(value, int | float)
        context.report("E0211", place.span, place.text, name=name, value=spelled(value), interval=interval)
    else:
        return True
    return False


def parameter(context: Context, located: Located) -> None:
    """A parameter: its default, or the value that the caller gives it, within its interval."""
    item, text = located
    assert isinstance(item, tree.Param)
    default, interval, name = constant(context, item.default, text), _interval(context, item, text), item.name.id
    switch = isinstance(default, bool)
    if switch and not (item.static and interval is None):
        help = "a switch is a `static param`, and has no interval"
        context.report("E0319", item.default.span, text, help, what=f"`{name}`", wanted="a number", found="a condition")
    elif default is not None:
        possible(context, name, default, switch, interval, located.place(item.default.span))
    value = default if default is not None else 0.0
    if name in context.values and default is not None:
        given, place = context.values[name], context.places.get(name, located.place(item.name.span))
        if possible(context, name, given, switch, interval, place):
            value = given if switch else float(given)
    context.rule.parameters[name] = Parameter(name, value, interval, item.doc, item.static, located.place())
    if item.static:
        context.scope.constants[name] = value
    else:
        context.scope.scalars.add(name)


def unknown_values(context: Context) -> None:
    """Parameters that the caller set must exist."""
    for name in context.values:
        if name not in context.rule.parameters:
            help = names.suggestion(name, context.rule.parameters) or listed(context.rule.parameters)
            span = context.flat.definition.name.span
            context.report("E0224", span, context.flat.text, help, name=context.flat.name, parameter=name)


def _space(context: Context, ref: tree.SpaceRef, text: Source) -> Space | None:
    if ref.id not in names.SPACES:
        context.report(
            "E0318", ref.span, text, names.suggestion(ref.id, names.SPACES) or "pre, post or out", name=ref.id
        )
        return None
    if ref.index and ref.id != "post":
        context.report("E0321", ref.span, text)
        return None
    return {"pre": PRE, "post": POST, "out": OUT}[ref.id] if not ref.index else Space("post", ref.index)


def _type(context: Context, ref: tree.TypeRef, text: Source) -> Type | None:
    if ref.source is None:
        if ref.target.id == "scalar" and not ref.target.index:
            return SCALAR
        if ref.target.id == "p" and context.kind == "optimizer":
            return PARAMETER
        if context.kind == "optimizer":
            context.report("E0318", ref.target.span, text, "an optimizer knows `p` and `scalar`", name=ref.target.id)
            return None
        space = _space(context, ref.target, text)
        if space and space.index:
            context.report("E0321", ref.target.span, text)
            return None
        return per_unit(space) if space else None
    source, target = _space(context, ref.source, text), _space(context, ref.target, text)
    if source is None or target is None:
        return None
    if target.index or (source.index and target != PRE):
        context.report("E0321", ref.span, text)
        return None
    if not synapses_exist(source, target):
        help = "synapses connect pre with post, and out with pre or post"
        context.report("E0308", ref.span, text, help, source=source, target=target)
        return None
    return map_between(source, target)


def declare(context: Context, located: Located) -> None:
    """A tensor with its type, so that expressions can read it; its first value is typed later."""
    item, text = located
    assert isinstance(item, tree.Declaration)
    type = _type(context, item.type, text)
    if type is None:
        context.scope.untyped.add(item.name.id)
        type = SCALAR
    context.scope.declared[item.name.id] = type
    if type.source and type.source.index:
        context.scope.families.add(item.name.id)


def initial_value(context: Context, located: Located) -> None:
    """The first value of a tensor: a draw, or an expression of what is known before the first step."""
    item, text = located
    assert isinstance(item, tree.Declaration)
    name, type, scope = item.name.id, context.scope.declared[item.name.id], context.scope.at(text)
    if name in context.scope.untyped:
        return
    if not item.random and (item.kind in ("weight", "fresh") or name in context.scope.families):
        help = "write `~ normal(0, 1)`, for example; `fixed` and `state` can start from an expression"
        help = "a map for every layer downstream starts from one" if name in context.scope.families else help
        context.report("E0218", item.initial.span, text, help)
        return
    if item.random:
        initial = distribution(scope, item.initial, type)
    else:
        initial = expression(scope, item.initial)
        if initial is not None and not fits(initial.type, type):
            values = {"what": f"`{name}`", "wanted": type.in_words, "found": initial.type.in_words}
            context.report(
                "E0319", item.initial.span, text, transposed_help(initial.type, type, item.initial), **values
            )
            return
    if initial is None:
        return
    fresh = [located.item.name.id for located in context.flat.of(tree.Declaration) if located.item.kind == "fresh"]  # type: ignore[union-attr]
    available(context, initial, "before the first step", (), fresh if item.kind != "fresh" else ())
    declared = Declared(name, item.kind, type, initial, item.doc, located.place(item.name.span))
    context.rule.declared[name] = declared
