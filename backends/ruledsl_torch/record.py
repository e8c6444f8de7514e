"""`net.ruledsl` of a converted network: what its layers share, what conversion did to it, and the table of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.utils.hooks import RemovableHandle

from ruledsl.ir.phases import TASK, Schedule
from ruledsl.listing import TITLES, aligned, assigned, by, in_turn, taught, unlike
from ruledsl.locality.experiment import Experiment
from ruledsl.program import program_of
from ruledsl_torch.attending import AttendedNetwork
from ruledsl_torch.layers import RuleLayer


class Added(NamedTuple):
    """What a layer has that it did not have before it was converted: names."""

    attributes: tuple[str, ...]
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]


class Record(AttendedNetwork):
    """`net.ruledsl`: what the layers of a network share, and what `convert` did.

    roles      by layer, its part in the network as far as that is known: `hidden`; `output`, from which the network's
               output is reached without another weight layer between; `first`, which sends to nobody
    experiment the ledger of all that trains the network
    added      by layer, what the rule added to it: the way back; `hooks`: those that modules have got
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.roles: dict[str, str] = {}
        self.experiment: Experiment | None = None
        self.added: dict[str, Added] = {}
        self.hooks: list[RemovableHandle] = []

    def __repr__(self) -> str:
        return "\n".join((*aligned([TITLES, *map(self._row, self.layers.items())]), *self._notes()))

    def _row(self, named: tuple[str, RuleLayer]) -> Sequence[str]:
        path, layer = named
        values = ", ".join(f"{name} = {float(getattr(layer, name)):g}" for name in layer.hyperparameters)
        return (
            path,
            type(layer).__name__.removeprefix("Mixed"),
            layer.rule,
            self.roles.get(path, "?"),
            values,
            ", ".join(learnt(layer)),
        )

    def _notes(self) -> Iterator[str]:
        if self.experiment is not None:
            yield from self.experiment.lines()
        constraints = dict.fromkeys(each.rule for layer in self.layers.values() for each in layer.constraints)
        if constraints:
            yield f"after every step: {', '.join(constraints)}"
        if self.schedule != Schedule():
            yield f"phases: {in_turn(self.schedule)}; in step {self.step}: {', '.join(self.phases)}"
        named = dict.fromkeys(t.optimizer for layer in self.layers.values() for t in layer.teaches or ())
        others = [name for name in named if name != TASK]
        if self.optimizers is not None:
            made = ", ".join(f"{name} = {type(one).__name__}" for name, one in self.optimizers.items())
            yield f"optimizers: {made}"
        elif others:
            yield f"optimizers: task, {', '.join(others)}, which ruledsl_torch.optimizers(net, task=...) makes"
        yield from self._in_loops()
        for name in self.strangers:
            yield f"not converted: {name}: it came into the network after convert"
        for name, why in self.skipped.items():
            yield f"not converted: {name or 'the network itself'}: {why}"
        if any(path not in self.roles for path in self.layers):
            yield "the part of a layer is known where convert was given an example="

    def _in_loops(self) -> Iterator[str]:
        """How rules take what loops do: see `ruledsl.passes.scaling`."""
        rules = {layer.rule: layer for layer in self.layers.values()}
        unlike = {rule: unlike_in(layer) for rule, layer in rules.items()}
        yield from (f"{rule} is not linear in the errors: {why}" for rule, why in unlike.items() if why)
        linear = [rule for rule, why in unlike.items() if not why]
        if linear:
            yield f"linear in the errors, over micro-batches, replicas and scaled losses: {', '.join(linear)}"
        for rule, layer in rules.items():
            names = dict.fromkeys(SHORT.get(once.tensor, once.tensor) for once in getattr(layer, "once", ()))
            if names:
                yield f"once a step, when an optimizer steps: what {rule} adds to the gradients of {', '.join(names)}"


SHORT = {"weight": "W", "bias": "b"}


def unlike_in(layer: RuleLayer) -> str:
    """What of a layer does not follow the loss; empty for a rule that is linear in the errors."""
    return unlike(layer.unscaled, layer.batched)


def learnt(layer: RuleLayer) -> Iterator[str]:
    """What changes in a layer while it learns: `W`, `B by align`, `B <-` for what has no optimizer."""
    binding = program_of(layer).binding
    absent = frozenset(name for name in ("W", "b") if getattr(layer, name) is None)
    yield from (f"{each.target}{by(each)}{_frozen(layer, each.target)}" for each in taught(binding, absent))
    yield from assigned(binding, absent)


def _frozen(layer: RuleLayer, target: str) -> str:
    held = getattr(layer, target, None)
    return " (frozen)" if isinstance(held, nn.Parameter) and not held.requires_grad else ""
