"""Type a flat definition: every declaration and statement, in one `Scope`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ruledsl.analysis import names
from ruledsl.analysis.expressions import Lazy, Scope
from ruledsl.analysis.initial_order import initial_order
from ruledsl.analysis.resolve import Flat, Located, check_new_name
from ruledsl.analysis.typed import Declared, Interval, Parameter, TypedPhase, TypedRule, Update
from ruledsl.diagnostics import Diagnostics, Text
from ruledsl.ir import nodes
from ruledsl.ir.nodes import Node, Place, walk
from ruledsl.ir.types import (
    OUT,
    PARAMETER,
    POST,
    PRE,
    SCALAR,
    Space,
    Type,
    activity,
    map_between,
    per_unit,
    synapses_exist,
)
from ruledsl.language import tree
from ruledsl.program import AFTER_STEP, INIT, TASK

Values = Mapping[str, float | bool]


def check_types(
    flat: Flat, values: Values, diagnostics: Diagnostics, places: Mapping[str, Place] = MappingProxyType({})
) -> TypedRule:
    """Type everything in a definition; `values` replace the defaults of its parameters.

    `places` says where a value was written, if it was written in a rule.
    """
    return _Checker(flat, values, diagnostics, places).check()


class _Checker:
    """Goes through the items of one definition in order; the order of what it does, not of the items, matters."""

    def __init__(self, flat: Flat, values: Values, diagnostics: Diagnostics, places: Mapping[str, Place]) -> None:
        self.flat, self.values, self.diagnostics, self.places = flat, values, diagnostics, places
        self.kind = flat.definition.kind
        self.scope = Scope(self.kind, diagnostics, flat.text)
        self.rule = TypedRule(flat, {}, {}, {})

    def check(self) -> TypedRule:
        for located in self.flat.of(tree.Param):
            self._param(located)
        for located in self.flat.of(tree.Declaration):
            self._declare(located)
        self.scope.lets.update(_lets(self.flat.items))
        self._type_lets(self.flat.items, self.scope)
        for located in self.flat.of(tree.Declaration):
            self._initial(located)
        _, cycle = initial_order(self.rule.declared)
        if cycle:
            place = self.rule.declared[cycle[0]].place
            self._add("E0225", place.span, place.text, name=cycle[0], cycle=" -> ".join(cycle))
        self.rule.phases[TASK] = TypedPhase(TASK, Place(self.flat.definition.name.span, self.flat.text))
        for located in self.flat.of(tree.Phase):
            assert isinstance(located.item, tree.Phase)
            name = located.item.name.id
            if name in (TASK, INIT):
                self._add(
                    "E0203", located.item.name.span, located.text, name=name, meaning="a phase that every rule has"
                )
            check_new_name(located.item.name, self.kind, located.text, self.diagnostics)
            self.rule.phases[name] = TypedPhase(name, located.place(located.item.name.span))
        self._statements(self.flat.items, self.rule.phases[TASK], self.scope, None)
        self._schedule()
        self._optimizers()
        self._constraints()
        self._unknown_values()
        if self.kind == "optimizer" and not self.diagnostics.errors and not _moves_p(i for i, _ in self.flat.items):
            help = "write `p <- p - lr * g`, for example"
            self._add("E0228", self.flat.definition.name.span, self.flat.text, help)
        self.rule.used = self.scope.used
        return self.rule

    def _add(self, code: str, span: tree.Span, text: Text, help: str | None = None, **values: object) -> None:
        self.diagnostics.add(code, span, help=help, text=text, **values)

    # --- parameters ---

    def _constant(self, expr: tree.Expr, text: Text) -> float | bool | None:
        node = self.scope.at(text).expression(expr)
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

    def _interval(self, item: tree.Param, text: Text) -> Interval | None:
        if item.interval is None:
            return None
        ends: list[float] = []
        for expr in (item.interval.low, item.interval.high):
            end = self._constant(expr, text)
            if isinstance(end, bool):
                self._add("E0302", expr.span, text, found="a condition")
            elif end is not None:
                ends.append(end)
        if len(ends) != 2:
            return None
        return Interval(ends[0], ends[1], item.interval.low_closed, item.interval.high_closed)

    def _possible(self, name: str, value: object, switch: bool, interval: Interval | None, place: Place) -> bool:
        """Whether a parameter can have this value; reports why not."""
        number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        if switch != isinstance(value, bool) or not (switch or number):
            found = "a condition" if isinstance(value, bool) else "a number" if number else repr(value)
            wanted = "`true` or `false`" if switch else "a number"
            self._add("E0319", place.span, place.text, what=f"`{name}`", wanted=wanted, found=found)
        elif interval and value not in interval:
            assert isinstance(value, int | float)
            self._add("E0211", place.span, place.text, name=name, value=_spelled(value), interval=interval)
        else:
            return True
        return False

    def _param(self, located: Located) -> None:
        item, text = located
        assert isinstance(item, tree.Param)
        default, interval, name = self._constant(item.default, text), self._interval(item, text), item.name.id
        switch = isinstance(default, bool)
        if switch and not (item.static and interval is None):
            help = "a switch is a `static param`, and has no interval"
            self._add("E0319", item.default.span, text, help, what=f"`{name}`", wanted="a number", found="a condition")
        elif default is not None:
            self._possible(name, default, switch, interval, located.place(item.default.span))
        value = default if default is not None else 0.0
        if name in self.values and default is not None:
            given, place = self.values[name], self.places.get(name, located.place(item.name.span))
            if self._possible(name, given, switch, interval, place):
                value = given if switch else float(given)
        self.rule.parameters[name] = Parameter(name, value, interval, item.doc, item.static, located.place())
        if item.static:
            self.scope.constants[name] = value
        else:
            self.scope.scalars.add(name)

    def _unknown_values(self) -> None:
        """Parameters that the caller set must exist."""
        for name in self.values:
            if name not in self.rule.parameters:
                help = names.suggestion(name, self.rule.parameters) or _listed(self.rule.parameters)
                span = self.flat.definition.name.span
                self._add("E0224", span, self.flat.text, help, name=self.flat.name, parameter=name)

    # --- declarations ---

    def _space(self, ref: tree.SpaceRef, text: Text) -> Space | None:
        if ref.id not in names.SPACES:
            self._add(
                "E0318", ref.span, text, names.suggestion(ref.id, names.SPACES) or "pre, post or out", name=ref.id
            )
            return None
        if ref.index and ref.id != "post":
            self._add("E0321", ref.span, text)
            return None
        return {"pre": PRE, "post": POST, "out": OUT}[ref.id] if not ref.index else Space("post", ref.index)

    def _type(self, ref: tree.TypeRef, text: Text) -> Type | None:
        if ref.source is None:
            if ref.target.id == "scalar" and not ref.target.index:
                return SCALAR
            if ref.target.id == "p" and self.kind == "optimizer":
                return PARAMETER
            if self.kind == "optimizer":
                self._add("E0318", ref.target.span, text, "an optimizer knows `p` and `scalar`", name=ref.target.id)
                return None
            space = self._space(ref.target, text)
            if space and space.index:
                self._add("E0321", ref.target.span, text)
                return None
            return per_unit(space) if space else None
        source, target = self._space(ref.source, text), self._space(ref.target, text)
        if source is None or target is None:
            return None
        if target.index or (source.index and target != PRE):
            self._add("E0321", ref.span, text)
            return None
        if not synapses_exist(source, target):
            help = "synapses connect pre with post, and out with pre or post"
            self._add("E0308", ref.span, text, help, source=source, target=target)
            return None
        return map_between(source, target)

    def _declare(self, located: Located) -> None:
        item, text = located
        assert isinstance(item, tree.Declaration)
        type = self._type(item.type, text)
        if type is None:
            self.scope.untyped.add(item.name.id)
            type = SCALAR
        self.scope.declared[item.name.id] = type
        if type.source and type.source.index:
            self.scope.families.add(item.name.id)

    def _initial(self, located: Located) -> None:
        item, text = located
        assert isinstance(item, tree.Declaration)
        name, type, scope = item.name.id, self.scope.declared[item.name.id], self.scope.at(text)
        if name in self.scope.untyped:
            return
        if not item.random and (item.kind in ("weight", "fresh") or name in self.scope.families):
            help = "write `~ normal(0, 1)`, for example; `fixed` and `state` can start from an expression"
            help = "a map for every layer downstream starts from one" if name in self.scope.families else help
            self._add("E0218", item.initial.span, text, help)
            return
        if item.random:
            initial = scope.distribution(item.initial, type)
        else:
            initial = scope.expression(item.initial)
            if initial is not None and not _fits(initial.type, type):
                values = {"what": f"`{name}`", "wanted": type.in_words, "found": initial.type.in_words}
                self._add(
                    "E0319", item.initial.span, text, _transposed_help(initial.type, type, item.initial), **values
                )
                return
        if initial is None:
            return
        fresh = [located.item.name.id for located in self.flat.of(tree.Declaration) if located.item.kind == "fresh"]  # type: ignore[union-attr]
        self._available(initial, "before the first step", (), fresh if item.kind != "fresh" else ())
        declared = Declared(name, item.kind, type, initial, item.doc, located.place(item.name.span))
        self.rule.declared[name] = declared

    # --- statements ---

    def _statements(
        self, items: Iterable[Located], phase: TypedPhase, scope: Scope, condition: Node | None, top: bool = True
    ) -> None:
        for located in items:
            item, text = located
            match item:
                case tree.Feedback() if self.kind == "rule" and phase.name == TASK:
                    self._feedback(item, phase, scope.at(text), condition)
                case tree.Assign() if self.kind == "constraint" and phase.name != AFTER_STEP:
                    self._misplaced(located, phase, top)
                case tree.Grad() if self.kind == "rule" and phase.name != AFTER_STEP:
                    self._grad(item, phase, scope.at(text), condition)
                case tree.Assign():
                    self._assign(item, phase, scope.at(text), condition)
                case tree.Minimize() if self.kind == "rule" and phase.name != AFTER_STEP:
                    self._minimize(item, phase, scope.at(text), condition)
                case tree.When():
                    self._when(item, phase, scope.at(text), condition)
                case tree.Drive() if phase.name not in (TASK, AFTER_STEP) and condition is None:
                    self._drive(item, phase, scope.at(text))
                case tree.Phase() if top and self.kind == "rule":
                    self._body(item.body, text, self.rule.phases[item.name.id], scope)
                case tree.AfterStep() if top and self.kind != "optimizer":
                    after = self.rule.phases.setdefault(AFTER_STEP, TypedPhase(AFTER_STEP, located.place()))
                    self._body(item.body, text, after, scope)
                case tree.Let() | tree.Primitive():
                    pass
                case tree.Feedback() | tree.Grad() | tree.Minimize() | tree.Drive() | tree.Phase() | tree.AfterStep():
                    self._misplaced(located, phase, top)
                case tree.Schedule() | tree.Use() | tree.OptimizerChoice() if not top or self.kind != "rule":
                    self._misplaced(located, phase, top)
                case tree.Param() | tree.Declaration() | tree.Locality() | tree.Extends() | tree.Source() if not top:
                    self._misplaced(located, phase, top)
                case tree.Declaration() if self.kind == "optimizer" and item.kind in ("weight", "fixed"):
                    self._misplaced(located, phase, top)
                case _:
                    pass

    def _misplaced(self, located: Located, phase: TypedPhase, top: bool) -> None:
        words = {
            tree.AfterStep: "after step",
            tree.OptimizerChoice: "optimizer",
            tree.Declaration: getattr(located.item, "kind", ""),
            tree.Assign: "<-",
        }
        item = words.get(type(located.item), type(located.item).__name__.lower())
        where = "a constraint" if self.kind == "constraint" else "an optimizer" if self.kind == "optimizer" else ""
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
            help = "write `p <- ...`" if self.kind == "optimizer" else None
        self._add("E0216", located.item.span, located.text, help, item=item, where=where)

    def _body(self, body: tuple[tree.Item, ...], text: Text, phase: TypedPhase, scope: Scope) -> None:
        located = [Located(item, text) for item in body]
        self._new_names(located)
        inner = scope.inner(_lets(located), text)
        self._type_lets(located, inner)
        self._statements(located, phase, inner, None, top=False)

    def _new_names(self, items: list[Located]) -> None:
        seen: dict[str, int] = {}
        for located in items:
            if isinstance(located.item, tree.Let | tree.Primitive):
                name = located.item.name
                check_new_name(name, self.kind, located.text, self.diagnostics)
                first = seen.setdefault(name.id, name.span.line)
                taken = name.id in (*self.scope.declared, *self.scope.scalars, *self.scope.constants, *self.scope.lets)
                if first != name.span.line or taken:
                    self._add("E0202", name.span, located.text, name=name.id)

    def _expect(self, node: Node | None, type: Type, what: str, expr: tree.Expr, text: Text) -> Node | None:
        if node is None or _fits(node.type, type):
            return node
        help = _transposed_help(node.type, type, expr)
        self._add("E0319", expr.span, text, help, what=what, wanted=type.in_words, found=node.type.in_words)
        return None

    def _feedback(self, item: tree.Feedback, phase: TypedPhase, scope: Scope, condition: Node | None) -> None:
        if item.slot.id != "send":
            help = "write `feedback send = ...`"
            self._add("E0201", item.slot.span, scope.text, help, name=item.slot.id)
            return
        node = self._expect(scope.expression(item.value), activity(PRE), "what a layer sends", item.value, scope.text)
        if node is not None:
            self._available(node, "in the task phase", names.SIGNALS)
            phase.sends.append((condition, node))

    def _target(self, target: tree.Ident, text: Text, kinds: tuple[str, ...]) -> Type | None:
        """The type of something that can be changed, or None after reporting why it cannot."""
        name = target.id
        if name in self.scope.untyped:
            return None
        if self.kind == "optimizer" and name == "p":
            return PARAMETER
        if self.kind != "optimizer" and name in names.FORWARD:
            return names.FORWARD[name]
        if name in self.scope.families and "weight" in kinds:
            help = "declare it as `fixed` or `fresh`"
            self._add("E0214", target.span, text, help, name=name, changed="changed", meaning=_FAMILY)
            return None
        for located in self.flat.of(tree.Declaration):
            assert isinstance(located.item, tree.Declaration)
            if located.item.name.id == name:
                if located.item.kind in kinds:
                    return self.scope.declared[name]
                means = {"fixed": "fixed, and keeps its first value", "fresh": "drawn anew at every step"}
                advice = {"fixed": "declare it as `weight` or `state`", "fresh": None}.get(located.item.kind)
                meaning = means.get(located.item.kind, f"a {located.item.kind}, which only `<-` changes")
                self._add("E0214", target.span, text, advice, name=name, changed="changed", meaning=meaning)
                return None
        known = [*self.scope.declared, *(names.FORWARD if self.kind != "optimizer" else ["p"])]
        taken = (*self.scope.lets, *self.scope.scalars, *self.scope.constants, *names.RESERVED)
        if name in taken or (self.kind == "optimizer" and name == "g"):
            meaning = names.meaning(name) if name in names.RESERVED else "no weight and no state"
            self._add("E0214", target.span, text, name=name, changed="changed", meaning=meaning)
        else:
            self._add("E0201", target.span, text, names.suggestion(name, known), name=name)
        return None

    def _update(self, update: Update, phase: TypedPhase) -> None:
        for other in phase.updates:
            both = [name for name in update.targets if name in other.targets]
            mixed = (other.kind == "assign") != (update.kind == "assign")  # an optimizer moves it, and `<-` as well
            alike = "minimize" not in (other.kind, update.kind) and other.condition is update.condition
            alike = alike and (other.optimizer == update.optimizer or "assign" in (other.kind, update.kind))
            if both and (mixed or alike) and other.place != update.place:
                help = f"the first one is in line {other.place.span.line}"
                self._add("E0215", update.place.span, update.place.text, help, what=f"the update of `{both[0]}`")
                return
        phase.updates.append(update)

    def _stored(self, node: Node | None, type: Type, what: str, expr: tree.Expr, text: Text) -> Node | None:
        """A value to be stored in a tensor: of its type, or an activity that is summed over batch and positions."""
        both_vectors = node is not None and type.kind == "vector" == node.type.kind
        same_space = node is not None and both_vectors and node.type.target == type.target
        if node is not None and same_space and "units" in node.type.axes and not node.type.boolean:
            return node
        return self._expect(node, type, what, expr, text)

    def _grad(self, item: tree.Grad, phase: TypedPhase, scope: Scope, condition: Node | None) -> None:
        type = self._target(item.target, scope.text, ("weight",))
        value = scope.expression(item.value)
        if type is None:
            return
        value = self._stored(value, type, f"the pseudo-gradient of `{item.target.id}`", item.value, scope.text)
        if value is not None:
            place = Place(item.span, scope.text)
            optimizer = self._by(item.by, scope.text)
            self._update(Update("grad", (item.target.id,), value, optimizer, condition, place), phase)

    def _assign(self, item: tree.Assign, phase: TypedPhase, scope: Scope, condition: Node | None) -> None:
        type = self._target(item.target, scope.text, ("weight", "state"))
        value = scope.expression(item.value)
        if type is None:
            return
        value = self._stored(value, type, f"the new `{item.target.id}`", item.value, scope.text)
        if value is not None:
            place = Place(item.span, scope.text)
            self._update(Update("assign", (item.target.id,), value, TASK, condition, place), phase)

    def _by(self, by: tree.Ident | None, text: Text) -> str:
        if by is None or by.id == TASK:
            return TASK
        if not any(located.item.slot.id == by.id for located in self.flat.of(tree.OptimizerChoice)):  # type: ignore[union-attr]
            help = f"declare it: `optimizer {by.id} = adam(lr = 0.001)`"
            self._add("E0223", by.span, text, help, name=by.id)
        return by.id

    def _minimize(self, item: tree.Minimize, phase: TypedPhase, scope: Scope, condition: Node | None) -> None:
        energy = scope.expression(item.energy)
        targets: list[str] = []
        for over in item.over:
            found = next((i.kind for i, _ in self.flat.of(tree.Declaration) if i.name.id == over.id), "weight")  # type: ignore[union-attr]
            if found != "weight":
                article = "a " if found == "state" else ""
                self._add("E0402", over.span, scope.text, name=over.id, found=f"{article}{found}")
                continue
            known = self._target(over, scope.text, ("weight",))
            if over.id in targets:
                self._add("E0215", over.span, scope.text, what=f"`{over.id}`")
            elif known is not None:
                targets.append(over.id)
        optimizer = self._by(item.by, scope.text)
        if energy is None:
            return
        if energy.type != SCALAR:
            help = "`dot`, `sq` or `norm` make a scalar"
            self._add("E0401", item.energy.span, scope.text, help, found=energy.type.in_words)
            return
        place = Place(item.span, scope.text)
        places = {over.id: Place(over.span, scope.text) for over in item.over}
        self._update(Update("minimize", tuple(targets), energy, optimizer, condition, place, places), phase)

    def _when(self, item: tree.When, phase: TypedPhase, scope: Scope, condition: Node | None) -> None:
        own = scope.expression(item.condition)
        located = [Located(inner, scope.text) for inner in item.body]
        self._new_names(located)
        inner = scope.inner(_lets(located))
        self._type_lets(located, inner)
        if own is None:
            self._statements(located, TypedPhase(phase.name, phase.place), inner, None, top=False)
            return
        if own.type != SCALAR.condition:
            help = "`when` switches the whole layer; `if ... then ... else` chooses per synapse"
            help = help if own.type.boolean else "compare it with something, for example `> 0`"
            span = item.condition.span
            values = {"what": "the condition of `when`", "wanted": "a scalar condition", "found": own.type.in_words}
            self._add("E0319", span, scope.text, help, **values)
            return
        static = scope.static_value(own)
        if static is not None:
            target = phase if static else TypedPhase(phase.name, phase.place)
            self._statements(located, target, inner, condition, top=False)
            return
        both = own if condition is None else scope.build("and", (condition, own), (), Place(item.span, scope.text))
        self._statements(located, phase, inner, both, top=False)

    def _drive(self, item: tree.Drive, phase: TypedPhase, scope: Scope) -> None:
        if item.signal.id != "x":
            values = {"name": item.signal.id, "changed": "driven", "meaning": "not the input of the layer"}
            self._add("E0214", item.signal.span, scope.text, "write `drive x = ...`", **values)
            return
        if "x" in phase.drives:
            self._add("E0215", item.span, scope.text, what="the `drive` of `x`")
        node = scope.distribution(item.value, activity(PRE))
        if node is not None:
            self._available(node, "in a `drive`", ())
            phase.drives["x"] = node

    def _available(self, node: Node, where: str, signals: Iterable[str], but: Iterable[str] = ()) -> None:
        """No signal but the given ones, and no tensor `but` those given, can be read here."""
        allowed, hidden = set(signals), set(but)
        for part in walk(node):
            name = str(part.attrs[0]) if part.op in ("signal", "tensor") else ""
            unknown = name in hidden if part.op == "tensor" else name not in allowed
            if name and unknown and part.place:
                self._add("E0213", part.place.span, part.place.text, name=name, where=where)

    def _type_lets(self, items: Iterable[Located], scope: Scope) -> None:
        """In the order of the text, so that none waits for many others; those that nothing reads have mistakes too."""
        for item, text in items:
            if isinstance(item, tree.Let | tree.Primitive):
                node = scope.named(item.name.id)
                if isinstance(item, tree.Primitive) and node is not None and node.type != SCALAR:
                    help = "`dot`, `sq` or `norm` make a scalar"
                    self._add("E0401", item.value.span, text, help, found=node.type.in_words)

    # --- composition ---

    def _schedule(self) -> None:
        for located in self.flat.of(tree.Schedule):
            item, text = located
            assert isinstance(item, tree.Schedule)
            self.rule.schedule = item
            kinds = [type(entry) for entry in item.entries]
            if tree.Each in kinds and tree.Alternate in kinds:
                self._add("E0222", item.span, text, problem="says both `each step` and `alternate`")
            if kinds.count(tree.Each) > 1 or kinds.count(tree.Alternate) > 1:
                self._add("E0222", item.span, text, problem="says twice what happens in every step")
            for number, entry in enumerate(item.entries):
                if isinstance(entry, tree.First):
                    count = self._constant(entry.count, text)
                    if count is not None and (isinstance(count, bool) or not 0 <= count < math.inf):
                        problem = "needs a finite number of epochs that is not negative"
                        self._add("E0222", entry.count.span, text, problem=problem)
                    self.rule.schedule_counts[number] = float(count or 0)
                for phase in entry.phases:
                    if phase.id not in self.rule.phases or phase.id == AFTER_STEP:
                        known = [name for name in self.rule.phases if name != AFTER_STEP]
                        help = names.suggestion(phase.id, known) or _listed(known)
                        self._add("E0212", phase.span, text, help, name=phase.id)

    def _arguments(self, keywords: tuple[tree.Keyword, ...], text: Text, other: Flat) -> dict[str, float | bool]:
        """The parameters that a rule sets of an optimizer or constraint; `lr` is one that every optimizer has."""
        values: dict[str, float | bool] = {}
        known = {located.item.name.id for located in other.of(tree.Param)}  # type: ignore[union-attr]
        for keyword in keywords:
            if keyword.name.id not in known and not (keyword.name.id == "lr" and other.definition.kind == "optimizer"):
                help = names.suggestion(keyword.name.id, known) or _listed(known)
                self._add("E0224", keyword.name.span, text, help, name=other.name, parameter=keyword.name.id)
                continue
            value = self._constant(keyword.value, text)
            place = Place(keyword.value.span, text)
            if keyword.name.id == "lr" and "lr" not in known:
                rate = Interval(0.0, math.inf, True, False)
                value = value if value is not None and self._possible("lr", value, False, rate, place) else None
            if value is not None:
                values[keyword.name.id] = value
        return values

    def _optimizers(self) -> None:
        for slot, (located, other) in self.flat.optimizers.items():
            item = located.item
            assert isinstance(item, tree.OptimizerChoice)
            for argument in item.value.args:
                expected = "its parameters by name, such as `lr = 0.1`"
                self._add(
                    "E0210",
                    argument.span,
                    located.text,
                    function=other.name,
                    expected=expected,
                    found="this has no name",
                )
            values = self._arguments(item.value.keywords, located.text, other)
            self.rule.optimizers[slot] = (other.name, values)
            check_new_name(item.slot, self.kind, located.text, self.diagnostics)
            parameters = {k: v for k, v in values.items() if k != "lr"}
            check_types(other, parameters, self.diagnostics, _places(item.value.keywords, located.text))

    def _constraints(self) -> None:
        for located, other in self.flat.used:
            assert isinstance(located.item, tree.Use)
            values = self._arguments(located.item.keywords, located.text, other)
            places = _places(located.item.keywords, located.text)
            self.rule.constraints.append(check_types(other, values, self.diagnostics, places))


_FAMILY = "one map for every layer downstream"


def _places(keywords: tuple[tree.Keyword, ...], text: Text) -> dict[str, Place]:
    return {keyword.name.id: Place(keyword.value.span, text) for keyword in keywords}


def _moves_p(items: Iterable[tree.Item]) -> bool:
    """Whether there is a `p <- ...`, right or wrong."""
    return any(
        (isinstance(item, tree.Assign) and item.target.id == "p")
        or (isinstance(item, tree.When) and _moves_p(item.body))
        for item in items
    )


def _lets(items: Iterable[Located]) -> dict[str, Lazy]:
    return {
        located.item.name.id: Lazy(located.item.name, located.item.value, located.text)
        for located in items
        if isinstance(located.item, tree.Let | tree.Primitive)
    }


def _fits(found: Type, wanted: Type) -> bool:
    """Whether a value of one type can stand where another is wanted: a scalar can stand for a value everywhere."""
    if found.boolean:
        return False
    if found.kind == "scalar":
        return True
    if found.kind == wanted.kind == "vector" and found.target == wanted.target:
        return found.axes <= wanted.axes
    return found == wanted


def _transposed_help(found: Type, wanted: Type, expr: tree.Expr) -> str | None:
    if found.kind == wanted.kind == "map" and found.transposed == wanted:
        return "transpose it: add `.T`"
    return None


def _spelled(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _listed(known: Iterable[str]) -> str | None:
    ordered = sorted(known)
    return f"there is {', '.join(f'`{name}`' for name in ordered)}" if ordered else None
