"""What a JAX layer computes of a compiled rule: the pass of its task phase (see `ruledsl.plan`)."""

from __future__ import annotations

from collections.abc import Iterable

from ruledsl.errors import UserError
from ruledsl.plan import CLOCK, VISITS, Call, Pass, evaluate, needed
from ruledsl.plan import Plan as WholePlan
from ruledsl.program import TASK

__all__ = ["CLOCK", "VISITS", "Call", "Plan", "evaluate"]


class Plan(WholePlan):
    """A rule with its parameters, as the JAX layers follow it: the task phase, without dense feedback.

    inputs, outputs, slots, later   those of the pass, see `ruledsl.plan.Pass`
    fresh   the tensors that are drawn anew at every step
    """

    @property
    def task(self) -> Pass:
        """What a forward and backward pass computes. Raises UserError for what a JAX layer can't supply."""
        if self.dense:
            raise UserError(f"{self.program.rule} reads delta[k], which a JAX layer can't supply")
        return self.in_pass(TASK, True)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs of a layer's differentiable function, in order."""
        return self.task.inputs

    @property
    def outputs(self) -> dict[str, Call]:
        """By the input whose "gradient" it is, what the backward pass computes."""
        return self.task.outputs

    @property
    def later(self) -> tuple[Call, ...]:
        """The `<-` that need no activity."""
        return self.task.later

    @property
    def fresh(self) -> tuple[str, ...]:
        """What is drawn anew at every step."""
        return tuple(tensor.name for tensor in self.program.tensors if tensor.kind == "fresh")

    @property
    def moves(self) -> bool:
        """Whether `advance` has anything to do."""
        return bool(self.task.slots or self.later or self.after or self.fresh)

    def needed(self, wanted: Iterable[Call], phase: str = TASK) -> tuple[Call, ...]:
        """`wanted` and the terms that they read, in the order of the program."""
        return needed(wanted, self.phases.get(phase, ()))

    def backward_calls(self, needs: tuple[bool, ...]) -> tuple[Call, ...]:
        """The calls for those inputs that need a gradient, in the order of `inputs`."""
        wanted = frozenset(name for name, need in zip(self.inputs, needs, strict=True) if need)
        return self.task.backward_calls(wanted, "x" in wanted)
