"""What an optimizer keeps and how it moves a parameter, as every backend shows it."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property

from ruledsl.emit.backend import Module
from ruledsl.emit.binding import Call
from ruledsl.emit.expressions import Writer
from ruledsl.emit.functions import Tensor
from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.phases import INIT

CLOCK = ("epoch", "progress")
ARITHMETIC = frozenset(("add", "sub", "mul", "div", "pow", "neg"))
DRAWING = frozenset(("key", "generator", "shape"))


class NumberForms:
    """Numbers are written by plain arithmetic and `math` alone."""

    operations: Mapping[str, str] = {}
    random: Mapping[str, str] = {}


@dataclass(frozen=True)
class Equations:
    """The equations of an optimizer, in the order in which a step computes them."""

    module: Module

    @cached_property
    def draws(self) -> tuple[tuple[Tensor, Call], ...]:
        """What is drawn at every step, with what draws it."""
        return self.module.binding.draws

    @cached_property
    def starts(self) -> list[tuple[Tensor, Call]]:
        """The states, in the order in which they can be made, with what makes them."""
        fresh = [tensor for tensor, _ in self.draws]
        return [(tensor, call) for tensor, call in self.module.binding.starts if tensor not in fresh]

    def _calls(self, role: str) -> list[Call]:
        own = [f for f in self.module.functions if f.phase != INIT and f.role == role]
        return [Call(f.name, f.arguments, f.target or f.name) for f in own]

    @cached_property
    def terms(self) -> list[Call]:
        """Values that several equations read."""
        return self._calls("term")

    @cached_property
    def moves(self) -> list[Call]:
        """The next values: those of states, and of p at the end."""
        return sorted(self._calls("assign"), key=lambda call: call.result == "p")

    @property
    def moves_p(self) -> bool:
        """Whether it is an optimizer at all: a static parameter may have switched off what moves p."""
        return any(call.result == "p" for call in self.moves)

    @cached_property
    def read(self) -> frozenset[str]:
        """Everything that a step reads."""
        calls = (*self.terms, *self.moves, *(call for _, call in self.draws))
        return frozenset(name for call in calls for name in call.arguments)

    def is_number(self, call: Call) -> bool:
        """Whether a value is one number."""
        return self.module.values[call.function].type.kind == "scalar"

    @property
    def numbers(self) -> list[str]:
        """The states that are numbers, and the counter where anything reads it."""
        return [*["step"] * ("step" in self.read), *(t.name for t, _ in self.starts if not t.space)]

    @cached_property
    def plain(self) -> bool:
        """Whether all that happens to numbers is arithmetic, which Python's own numbers do as tensors do."""
        numbers = Writer(NumberForms(), self.module.names, {})
        values = [self.module.values[call.function] for call in (*self.terms, *self.moves)]
        for part in walk(*values):
            computed = part.type.kind == "scalar" and not part.is_leaf and not numbers.is_number(part)
            read = any(arg.type.kind == "scalar" and not numbers.is_number(arg) for arg in part.args)
            if (computed and part.op not in ARITHMETIC) or (read and part.op not in ARITHMETIC | {"full_like"}):
                return False
        return True

    @cached_property
    def assigned(self) -> dict[str, Call]:
        """The next values, by the tensor."""
        return {call.result: call for call in self.moves}

    @cached_property
    def common(self) -> frozenset[str]:
        """What is the same for all parameters: scalars, and those states and terms that follow from such alone."""
        scalars = {t.name for t, _ in (*self.starts, *self.draws) if not t.space}
        scalar_terms = {c.result for c in self.terms if self.is_number(c)}
        found = {"lr", "step", *CLOCK, *self.module.binding.parameters, *scalars, *scalar_terms}
        calls = [*(call for _, call in (*self.starts, *self.draws)), *self.terms, *self.moves]
        while apart := {c.result for c in calls if c.result in found and {*c.arguments} - found - DRAWING}:
            found -= apart
        return frozenset(found)

    @cached_property
    def at_zero(self) -> bool:
        """Whether next_p is p plus something else, which is the update: next_p at p = 0."""
        return _beside_p(self.module.values[self.assigned["p"].function], self.module.terms)


def aliases(node: Node) -> set[str]:
    """The tensors whose memory a value may be, since it chooses between them instead of computing something."""
    if node.op in ("tensor", "signal") and node.type.kind != "scalar":
        return {str(node.attrs[0])}
    if node.op == "where":
        return aliases(node.args[1]) | aliases(node.args[2])
    return set()


def _beside_p(node: Node, terms: Container[int]) -> bool:
    """Whether a value is p plus an array, or minus one, that does not read p; terms are given to it."""
    if node.op not in ("add", "sub") or id(node) in terms:
        return False
    first, second = node.args
    if node.op == "add" and _reads_p(second, terms):
        first, second = second, first
    if _reads_p(second, terms):
        return False
    return _beside_p(first, terms) or (_is_p(first) and second.type.kind == "parameter")


def _reads_p(node: Node, terms: Container[int]) -> bool:
    return any(_is_p(part) for part in walk(node, until=terms))


def _is_p(node: Node) -> bool:
    return node.op == "tensor" and node.attrs[0] == "p"
