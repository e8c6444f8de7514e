"""What a compiled rule asks of a runtime: which functions to call for which results, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ruledsl.errors import UserError, suggest
from ruledsl.program import AFTER_STEP, TASK, Program

ACTIVITY = frozenset({"x", "u", "y", "delta", "e", "target", "delta_k", "batch_size"})
VISITS = "backward visits"  # with a space in it, like the slots' names, it can't be the name of a rule's tensor
CLOCK = ("step", "epoch", "progress", "lr")


@dataclass(frozen=True)
class Call:
    """A function of an emitted module, bound: `reads` are the arguments that the runtime supplies."""

    name: str
    role: str
    target: str | None
    reads: tuple[str, ...]
    function: Callable[..., Any]


def evaluate(calls: Iterable[Call], values: dict[str, Any]) -> dict[str, Any]:
    """Call one after the other, each with what it reads; `values` grows by every result, under the call's name."""
    for call in calls:
        values[call.name] = call.function(**{name: values[name] for name in call.reads})
    return values


class Plan:
    """A program with the values of its parameters; immutable, shared by all layers of a network that follow it.

    phases    the calls of every phase; `starts` and `draws` are those that make first and fresh values
    outputs   by the input of a layer whose "gradient" it is, what the backward pass computes: `x`, a tensor that
              learns, or `next S`, the slot of `S <- ...`
    inputs    the inputs of a layer's differentiable function, in order
    slots     those of them that are slots
    later     the `<-` that `advance` computes, since nothing that it reads changes before
    direct    whether a function reads e; `reads_out`: or anything else over the network's outputs
    driven    the phases with an input of their own that follow each step
    """

    def __init__(self, program: Program, parameters: Mapping[str, float] | None = None) -> None:
        """Raises UserError for a parameter that the rule doesn't have, for an optimizer or a constraint, which are
        no learning rules by themselves, and for a signal that no layer can supply."""
        for name in parameters or {}:
            if name not in program.parameters:
                raise UserError(f"{program.rule} has no parameter `{name}`", suggest(name, program.parameters))
        self.program = program
        self.parameters = {**program.parameters, **(parameters or {})}
        self.phases = {phase: _bind(program, phase) for phase in dict.fromkeys(f.phase for f in program.functions)}
        task = self.phases.get(TASK, ())
        every = [name for calls in self.phases.values() for call in calls for name in call.reads]
        if not any(call.role == "send" for call in task):
            raise UserError(f"{program.rule} is no learning rule: it sends no error to the layer below")
        if "delta_k" in every:
            raise UserError(f"{program.rule} reads delta[k], which a converted layer can't supply")
        self.direct = any("e" in call.reads for call in task)
        self.needs_phi = bool({"phi", "dphi", "y"} & set(every))
        self.clocked = tuple(name for name in CLOCK if name in every)
        self.reads_out = bool({"e", "target", "classes"} & set(every)) or any("out" in t.space for t in program.tensors)
        calls = [call for phase in self.phases.values() for call in phase]
        self.draws = tuple(call for call in calls if call.role == "draw")
        self.starts = tuple(c for c in calls if c.role == "init")
        self.fresh = tuple(tensor.name for tensor in program.tensors if tensor.kind == "fresh")
        owned = [tensor for tensor in program.tensors if tensor.kind != "forward"]  # W and b serve more than sending
        self.serves_sending = frozenset(tensor.name for tensor in owned if tensor.feedback_only)
        self.outputs = self._outputs(task)
        self.slots = tuple(name for name in self.outputs if name.startswith("next "))
        self.inputs = self._inputs()
        self.later = tuple(c for c in task if c.role == "assign" and f"next {c.target}" not in self.outputs)
        self.driven = tuple(phase for phase in program.schedule.each if phase != TASK)

    @property
    def moves(self) -> bool:
        """Whether there is anything for `advance` to do."""
        return bool(self.slots or self.later or self.phases.get(AFTER_STEP) or self.fresh or self.driven)

    def needed(self, wanted: Iterable[Call], phase: str = TASK) -> tuple[Call, ...]:
        """`wanted` and the terms that they read, in the order of the program: terms before their readers."""
        names = {call.name for call in wanted}
        read: set[str] = set()
        chosen: list[Call] = []
        for call in reversed(self.phases.get(phase, ())):
            if call.name in names or (call.role == "term" and call.name in read):
                chosen.append(call)
                read.update(call.reads)
        return tuple(reversed(chosen))

    def backward_calls(self, needs: tuple[bool, ...]) -> tuple[Call, ...]:
        """The calls for those inputs of a layer that need a gradient (`needs`, in the order of `inputs`).

        A layer whose input needs none sends to nobody: what only serves its sending isn't learned.
        """
        wanted: list[Call] = []
        for name, need in zip(self.inputs, needs, strict=True):
            call = self.outputs.get(name)
            if need and call is not None and (needs[0] or call.target not in self.serves_sending):
                wanted.append(call)
        return self.needed(wanted)

    def _outputs(self, task: tuple[Call, ...]) -> dict[str, Call]:
        # A `<-` that reads activity, or a tensor that the optimizer moves before `advance` runs, is computed in the
        # backward pass, so that it sees the values from before the step.
        moved = ACTIVITY | {call.target for call in task if call.role == "grad"}
        outputs: dict[str, Call] = {}
        for call in task:
            if call.role == "send":
                outputs["x"] = call
            elif call.role == "grad" and call.target is not None:
                outputs[call.target] = call
            elif call.role == "assign" and any(moved & set(c.reads) for c in self.needed((call,))):
                outputs[f"next {call.target}"] = call
        return outputs

    def _inputs(self) -> tuple[str, ...]:
        calls = self.needed(self.outputs.values())
        read = {name for call in calls for name in call.reads} | self.outputs.keys()
        tensors = [t.name for t in self.program.tensors if t.kind != "forward" and t.name in read]
        signals = [name for name in ("target", *CLOCK) if name in read]
        return ("x", "W", "b", *tensors, *self.slots, *([VISITS] if self.slots else []), *signals)

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        return self

    def __reduce__(self) -> tuple[type[Plan], tuple[Program, dict[str, float]]]:
        # The live module of a program has no place in a pickle: `replace` drops it, its text makes it anew.
        return Plan, (replace(self.program, parameters=dict(self.program.parameters)), self.parameters)


def _bind(program: Program, phase: str) -> tuple[Call, ...]:
    code = program.module
    return tuple(Call(f.name, f.role, f.target, f.arguments, getattr(code, f.name)) for f in program.of_phase(phase))
