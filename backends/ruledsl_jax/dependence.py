"""What depends on what in a traced computation, as its jaxpr says: no value is tried.

An operation's results depend on all of its operands; what is known of an operation with a computation inside is used.
Shapes and types are no data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

Sources = frozenset[str]
NOTHING: Sources = frozenset()
MARK = "ruledsl:"
"""How the names of marks begin."""


class Dependence:
    """Follows sources through a jaxpr.

    A value that `jax.ad_checkpoint.checkpoint_name` has named `ruledsl:` and more is a mark: `met` holds, by that, the
    sources that it depends on; and if it is in `own`, its name is a source itself from there on.
    """

    def __init__(self, own: Sequence[str] = ()) -> None:
        self.own = frozenset(own)
        self.met: dict[str, Sources] = {}

    def through(self, jaxpr: Jaxpr, sources: Sequence[Sources]) -> list[Sources]:
        """Of each output, the sources that it depends on; `sources` are those of the inputs."""
        reached: dict[Any, Sources] = dict(zip(jaxpr.invars, sources, strict=True))

        def of(value: Any) -> Sources:
            return NOTHING if isinstance(value, Literal) else reached.get(value, NOTHING)

        for equation in jaxpr.eqns:
            found = self._through_one(equation, [of(value) for value in equation.invars])
            reached |= zip(equation.outvars, found, strict=True)
        return [of(value) for value in jaxpr.outvars]

    def _through_one(self, equation: Any, given: list[Sources]) -> list[Sources]:
        name, outs = equation.primitive.name, len(equation.outvars)
        if name == "name" and str(equation.params["name"]).startswith(MARK):
            mark = str(equation.params["name"]).removeprefix(MARK)
            self.met[mark] = self.met.get(mark, NOTHING) | given[0]
            return [given[0] | {mark} if mark in self.own else given[0]]
        if name == "cond":
            index, *operands = given
            branches = [self.through(branch.jaxpr, operands) for branch in equation.params["branches"]]
            return [index.union(*found) for found in zip(*branches, strict=True)] if outs else []
        if name == "scan":
            return self._loop(equation, given)
        if name == "while":
            return self._until(equation, given)
        inside = list(_inside(equation.params))
        if len(inside) == 1 and len(inside[0].invars) == len(given) and len(inside[0].outvars) == outs:
            return self.through(inside[0], given)
        everything = NOTHING.union(*given)
        for each in inside:  # whatever they do with what they are given, their marks are met
            everything = everything.union(*self.through(each, [everything] * len(each.invars)))
        return [everything] * outs

    def _loop(self, equation: Any, given: list[Sources]) -> list[Sources]:
        consts, carried = equation.params["num_consts"], equation.params["num_carry"]
        fixed, carry, rows = given[:consts], given[consts : consts + carried], given[consts + carried :]
        while True:
            found = self.through(equation.params["jaxpr"].jaxpr, [*fixed, *carry, *rows])
            after = [before | new for before, new in zip(carry, found[:carried], strict=True)]
            if after == carry:
                return [*carry, *found[carried:]]
            carry = after

    def _until(self, equation: Any, given: list[Sources]) -> list[Sources]:
        asking, doing = equation.params["cond_nconsts"], equation.params["body_nconsts"]
        asked, done, carry = given[:asking], given[asking : asking + doing], given[asking + doing :]
        while True:
            (whether,) = self.through(equation.params["cond_jaxpr"].jaxpr, [*asked, *carry])
            found = self.through(equation.params["body_jaxpr"].jaxpr, [*done, *carry])
            after = [before | new | whether for before, new in zip(carry, found, strict=True)]
            if after == carry:
                return carry
            carry = after


def _inside(value: Any) -> Iterator[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _inside(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _inside(part)
