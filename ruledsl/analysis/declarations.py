"""Type what a definition declares: parameters with their intervals, tensors with their types and first values."""

from __future__ import annotations

import math

from ruledsl.analysis import names
from ruledsl.analysis.checker import Checker, fits, listed, spelled, transposed_help
from ruledsl.analysis.distributions import distribution
from ruledsl.analysis.expressions import expression
from ruledsl.analysis.resolve import Located
from ruledsl.analysis.typed import Declared, Interval, Parameter
from ruledsl.ir.types import OUT, PARAMETER, POST, PRE, SCALAR, Space, Type, map_between, per_unit, synapses_exist
from ruledsl.language import tree
from ruledsl.source import Source, SourceLocation


class Declarations(Checker):
    """The chapter of parameters and declarations."""

    def _interval(self, item: tree.Param, text: Source) -> Interval | None:
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

    def _possible(
        self, name: str, value: object, switch: bool, interval: Interval | None, place: SourceLocation
    ) -> bool:
        """Whether a parameter can have this value; reports why not."""
        number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        if switch != isinstance(value, bool) or not (switch or number):
            found = "a condition" if isinstance(value, bool) else "a number" if number else repr(value)
            wanted = "`true` or `false`" if switch else "a number"
            self._add("E0319", place.span, place.text, what=f"`{name}`", wanted=wanted, found=found)
        elif interval and value not in interval:
            assert isinstance(value, int | float)
            self._add("E0211", place.span, place.text, name=name, value=spelled(value), interval=interval)
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
                help = names.suggestion(name, self.rule.parameters) or listed(self.rule.parameters)
                span = self.flat.definition.name.span
                self._add("E0224", span, self.flat.text, help, name=self.flat.name, parameter=name)

    def _space(self, ref: tree.SpaceRef, text: Source) -> Space | None:
        if ref.id not in names.SPACES:
            self._add(
                "E0318", ref.span, text, names.suggestion(ref.id, names.SPACES) or "pre, post or out", name=ref.id
            )
            return None
        if ref.index and ref.id != "post":
            self._add("E0321", ref.span, text)
            return None
        return {"pre": PRE, "post": POST, "out": OUT}[ref.id] if not ref.index else Space("post", ref.index)

    def _type(self, ref: tree.TypeRef, text: Source) -> Type | None:
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
            initial = distribution(scope, item.initial, type)
        else:
            initial = expression(scope, item.initial)
            if initial is not None and not fits(initial.type, type):
                values = {"what": f"`{name}`", "wanted": type.in_words, "found": initial.type.in_words}
                self._add("E0319", item.initial.span, text, transposed_help(initial.type, type, item.initial), **values)
                return
        if initial is None:
            return
        fresh = [located.item.name.id for located in self.flat.of(tree.Declaration) if located.item.kind == "fresh"]  # type: ignore[union-attr]
        self._available(initial, "before the first step", (), fresh if item.kind != "fresh" else ())
        declared = Declared(name, item.kind, type, initial, item.doc, located.place(item.name.span))
        self.rule.declared[name] = declared
