"""Type what a definition does: feedback, pseudo-gradients, assignments, energies, in whatever phase they stand."""

from __future__ import annotations

from collections.abc import Iterable

from ruledsl.analysis import names
from ruledsl.analysis.context import Context, available, expect, fits, lets_of
from ruledsl.analysis.distributions import distribution
from ruledsl.analysis.expressions import expression, named
from ruledsl.analysis.resolve import Located, check_new_name
from ruledsl.analysis.scope import Scope
from ruledsl.analysis.typed import TypedPhase, Update
from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.phases import AFTER_STEP, TASK
from ruledsl.ir.types import PARAMETER, PRE, SCALAR, Type, activity
from ruledsl.language import tree
from ruledsl.language.lexer import short
from ruledsl.language.printer import print_expression
from ruledsl.source import Source, SourceLocation


def statements(
    context: Context,
    items: Iterable[Located],
    phase: TypedPhase,
    scope: Scope,
    condition: Node | None,
    top: bool = True,
) -> None:
    """Type some items in their phase; `condition` is that of the `when` around them, `top` says there is no block."""
    for located in items:
        item, text = located
        match item:
            case tree.Feedback() if context.kind == "rule" and phase.name == TASK:
                _feedback(context, item, phase, scope.at(text), condition)
            case tree.Assign() if context.kind == "constraint" and phase.name != AFTER_STEP:
                _misplaced(context, located, phase, top)
            case tree.Grad() if context.kind == "rule" and phase.name != AFTER_STEP:
                _grad(context, item, phase, scope.at(text), condition)
            case tree.Assign():
                _assign(context, item, phase, scope.at(text), condition)
            case tree.Minimize() if context.kind == "rule" and phase.name != AFTER_STEP:
                _minimize(context, item, phase, scope.at(text), condition)
            case tree.When():
                _when(context, item, phase, scope.at(text), condition)
            case tree.Drive() if phase.name not in (TASK, AFTER_STEP) and condition is None:
                _drive(context, item, phase, scope.at(text))
            case tree.Phase() if top and context.kind == "rule":
                _body(context, item.body, text, context.rule.phases[item.name.id], scope)
            case tree.AfterStep() if top and context.kind != "optimizer":
                after = context.rule.phases.setdefault(AFTER_STEP, TypedPhase(AFTER_STEP, located.place()))
                _body(context, item.body, text, after, scope)
            case tree.Let() | tree.Primitive():
                pass
            case tree.Feedback() | tree.Grad() | tree.Minimize() | tree.Drive() | tree.Phase() | tree.AfterStep():
                _misplaced(context, located, phase, top)
            case tree.Schedule() | tree.Use() | tree.OptimizerChoice() if not top or context.kind != "rule":
                _misplaced(context, located, phase, top)
            case tree.Param() | tree.Declaration() | tree.Locality() | tree.Extends() | tree.Source() if not top:
                _misplaced(context, located, phase, top)
            case tree.Declaration() if context.kind == "optimizer" and item.kind in ("weight", "fixed"):
                _misplaced(context, located, phase, top)
            case _:
                pass


def _misplaced(context: Context, located: Located, phase: TypedPhase, top: bool) -> None:
    words = {
        tree.AfterStep: "after step",
        tree.OptimizerChoice: "optimizer",
        tree.Declaration: getattr(located.item, "kind", ""),
        tree.Assign: "<-",
    }
    item = words.get(type(located.item), type(located.item).__name__.lower())
    where = "a constraint" if context.kind == "constraint" else "an optimizer" if context.kind == "optimizer" else ""
    if not top or not where:
        inside = "a `when`" if phase.name == TASK else f"`{phase.name}`"
        where = "the body of a rule" if top else inside
    help = {
        tree.Drive: "`drive` stands in a `phase`, outside of any `when`",
        tree.Assign: "a constraint acts in `after step { ... }`",
        tree.Grad: "no optimizer moves anything after the step: write `W <- ...`",
        tree.Minimize: "no optimizer moves anything after the step: write `W <- ...`",
    }.get(type(located.item))
    if phase.name != AFTER_STEP and isinstance(located.item, tree.Grad | tree.Minimize):
        help = "write `p <- ...`" if context.kind == "optimizer" else None
    context.report("E0216", located.item.span, located.text, help, item=item, where=where)


def _body(context: Context, body: tuple[tree.Item, ...], text: Source, phase: TypedPhase, scope: Scope) -> None:
    located = [Located(item, text) for item in body]
    _new_names(context, located)
    inner = scope.inner(lets_of(located), text)
    type_lets(context, located, inner)
    statements(context, located, phase, inner, None, top=False)


def _new_names(context: Context, items: list[Located]) -> None:
    seen: dict[str, int] = {}
    for located in items:
        if isinstance(located.item, tree.Let | tree.Primitive):
            name = located.item.name
            check_new_name(name, context.kind, located.text, context.diagnostics)
            first = seen.setdefault(name.id, name.span.line)
            taken = name.id in (
                *context.scope.declared,
                *context.scope.scalars,
                *context.scope.constants,
                *context.scope.lets,
            )
            if first != name.span.line or taken:
                context.report("E0202", name.span, located.text, name=name.id)


def _feedback(context: Context, item: tree.Feedback, phase: TypedPhase, scope: Scope, condition: Node | None) -> None:
    if item.slot.id != "send":
        help = "write `feedback send = ...`"
        context.report("E0201", item.slot.span, scope.text, help, name=item.slot.id)
        return
    node = expect(context, expression(scope, item.value), activity(PRE), "what a layer sends", item.value, scope.text)
    if node is not None:
        available(context, node, "in the task phase", names.SIGNALS)
        phase.sends.append((condition, node))


def _target(context: Context, target: tree.Ident, text: Source, kinds: tuple[str, ...]) -> Type | None:
    """The type of something that can be changed, or None after reporting why it cannot."""
    name = target.id
    if name in context.scope.untyped:
        return None
    if context.kind == "optimizer" and name == "p":
        return PARAMETER
    if context.kind != "optimizer" and name in names.FORWARD:
        return names.FORWARD[name]
    if name in context.scope.families and "weight" in kinds:
        help = "declare it as `fixed` or `fresh`"
        context.report("E0214", target.span, text, help, name=name, changed="changed", meaning=_FAMILY)
        return None
    for located in context.flat.of(tree.Declaration):
        assert isinstance(located.item, tree.Declaration)
        if located.item.name.id == name:
            if located.item.kind in kinds:
                return context.scope.declared[name]
            means = {"fixed": "fixed, and keeps its first value", "fresh": "drawn anew at every step"}
            advice = {"fixed": "declare it as `weight` or `state`", "fresh": None}.get(located.item.kind)
            meaning = means.get(located.item.kind, f"a {located.item.kind}, which only `<-` changes")
            context.report("E0214", target.span, text, advice, name=name, changed="changed", meaning=meaning)
            return None
    known = [*context.scope.declared, *(names.FORWARD if context.kind != "optimizer" else ["p"])]
    taken = (*context.scope.lets, *context.scope.scalars, *context.scope.constants, *names.RESERVED)
    if name in taken or (context.kind == "optimizer" and name == "g"):
        meaning = names.meaning(name) if name in names.RESERVED else "no weight and no state"
        context.report("E0214", target.span, text, name=name, changed="changed", meaning=meaning)
    else:
        context.report("E0201", target.span, text, names.suggestion(name, known), name=name)
    return None


def _update(context: Context, update: Update, phase: TypedPhase) -> None:
    for other in phase.updates:
        both = [name for name in update.targets if name in other.targets]
        mixed = (other.kind == "assign") != (update.kind == "assign")  # an optimizer moves it, and `<-` as well
        alike = "minimize" not in (other.kind, update.kind) and other.condition is update.condition
        alike = alike and (other.optimizer == update.optimizer or "assign" in (other.kind, update.kind))
        if both and (mixed or alike) and other.place != update.place:
            help = f"the first one is in line {other.place.span.line}"
            context.report("E0215", update.place.span, update.place.text, help, what=f"the update of `{both[0]}`")
            return
    phase.updates.append(update)


def _stored(context: Context, node: Node | None, type: Type, what: str, expr: tree.Expr, text: Source) -> Node | None:
    """A value to be stored in a tensor: of its type. How an activity is accumulated is for the author to say."""
    if node is None or fits(node.type, type) or type.kind != "vector" or node.type.kind != "vector":
        return expect(context, node, type, what, expr, text)
    if node.type.target != type.target or "units" not in node.type.axes or node.type.boolean:
        return expect(context, node, type, what, expr, text)
    written = short(print_expression(expr))
    help = f"`total({written})` sums over batch and positions, `total({written}, mean=all)` averages"
    if any(part.op == "tensor" and part.type == type for part in walk(node)):
        help = "put what is summed over batch and positions into `total(...)`, or `total(..., mean=all)` to average; "
        help += "what is one number per neuron already stays outside, as in `h <- 0.9 * h + 0.1 * total(u, mean=all)`"
    context.report("E0323", expr.span, text, help, what=what, found=node.type.in_words)
    return None


def _grad(context: Context, item: tree.Grad, phase: TypedPhase, scope: Scope, condition: Node | None) -> None:
    value = _right_side(context, item, scope, ("weight",), f"the pseudo-gradient of `{item.target.id}`")
    if value is not None:
        optimizer, place = _by(context, item.by, scope.text), SourceLocation(item.span, scope.text)
        _update(context, Update("grad", (item.target.id,), value, optimizer, condition, place), phase)


def _assign(context: Context, item: tree.Assign, phase: TypedPhase, scope: Scope, condition: Node | None) -> None:
    value = _right_side(context, item, scope, ("weight", "state"), f"the new `{item.target.id}`")
    if value is not None:
        place = SourceLocation(item.span, scope.text)
        _update(context, Update("assign", (item.target.id,), value, TASK, condition, place), phase)


def _right_side(
    context: Context, item: tree.Grad | tree.Assign, scope: Scope, kinds: tuple[str, ...], what: str
) -> Node | None:
    """The value for a target of one of the `kinds`, or None after reporting that one of the two does not fit."""
    type = _target(context, item.target, scope.text, kinds)
    value = expression(scope, item.value)
    return None if type is None else _stored(context, value, type, what, item.value, scope.text)


def _by(context: Context, by: tree.Ident | None, text: Source) -> str:
    if by is None or by.id == TASK:
        return TASK
    if not any(located.item.slot.id == by.id for located in context.flat.of(tree.OptimizerChoice)):  # type: ignore[union-attr]
        help = f"declare it: `optimizer {by.id} = adam(lr = 0.001)`"
        context.report("E0223", by.span, text, help, name=by.id)
    return by.id


def _minimize(context: Context, item: tree.Minimize, phase: TypedPhase, scope: Scope, condition: Node | None) -> None:
    energy = expression(scope, item.energy)
    targets: list[str] = []
    for over in item.over:
        found = next((i.kind for i, _ in context.flat.of(tree.Declaration) if i.name.id == over.id), "weight")  # type: ignore[union-attr]
        if found != "weight":
            article = "a " if found == "state" else ""
            context.report("E0402", over.span, scope.text, name=over.id, found=f"{article}{found}")
            continue
        known = _target(context, over, scope.text, ("weight",))
        if over.id in targets:
            context.report("E0215", over.span, scope.text, what=f"`{over.id}`")
        elif known is not None:
            targets.append(over.id)
    optimizer = _by(context, item.by, scope.text)
    if energy is None:
        return
    if energy.type != SCALAR:
        help = "`dot`, `sq` or `norm` make a scalar"
        context.report("E0401", item.energy.span, scope.text, help, found=energy.type.in_words)
        return
    place = SourceLocation(item.span, scope.text)
    places = {over.id: SourceLocation(over.span, scope.text) for over in item.over}
    _update(context, Update("minimize", tuple(targets), energy, optimizer, condition, place, places), phase)


def _when(context: Context, item: tree.When, phase: TypedPhase, scope: Scope, condition: Node | None) -> None:
    own = expression(scope, item.condition)
    located = [Located(inner, scope.text) for inner in item.body]
    _new_names(context, located)
    inner = scope.inner(lets_of(located))
    type_lets(context, located, inner)
    if own is None:
        statements(context, located, TypedPhase(phase.name, phase.place), inner, None, top=False)
        return
    if own.type != SCALAR.condition:
        help = "`when` switches the whole layer; `if ... then ... else` chooses per synapse"
        help = help if own.type.boolean else "compare it with something, for example `> 0`"
        span = item.condition.span
        values = {"what": "the condition of `when`", "wanted": "a scalar condition", "found": own.type.in_words}
        context.report("E0319", span, scope.text, help, **values)
        return
    static = scope.static_value(own)
    if static is not None:
        target = phase if static else TypedPhase(phase.name, phase.place)
        statements(context, located, target, inner, condition, top=False)
        return
    both = own if condition is None else scope.build("and", (condition, own), (), SourceLocation(item.span, scope.text))
    statements(context, located, phase, inner, both, top=False)


def _drive(context: Context, item: tree.Drive, phase: TypedPhase, scope: Scope) -> None:
    if item.signal.id != "x":
        values = {"name": item.signal.id, "changed": "driven", "meaning": "not the input of the layer"}
        context.report("E0214", item.signal.span, scope.text, "write `drive x = ...`", **values)
        return
    if "x" in phase.drives:
        context.report("E0215", item.span, scope.text, what="the `drive` of `x`")
    node = distribution(scope, item.value, activity(PRE))
    if node is not None:
        available(context, node, "in a `drive`", ())
        phase.drives["x"] = node


def type_lets(context: Context, items: Iterable[Located], scope: Scope) -> None:
    """In the order of the text, so that none waits for many others; those that nothing reads have mistakes too."""
    for item, text in items:
        if isinstance(item, tree.Let | tree.Primitive):
            node = named(scope, item.name.id)
            if isinstance(item, tree.Primitive) and node is not None and node.type != SCALAR:
                help = "`dot`, `sq` or `norm` make a scalar"
                context.report("E0401", item.value.span, text, help, found=node.type.in_words)


_FAMILY = "one map for every layer downstream"
