"""What a compiled rule asks of a runtime: which functions to call for which results, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ruledsl.errors import UserError, suggest
from ruledsl.program import AFTER_STEP, INIT, TASK, Program

ERRORS = frozenset({"delta", "e", "delta_k"})
ACTIVITY = ERRORS | {"x", "u", "y", "target", "batch_size"}
VISITS = "backward visits"  # with a space in it, like the slots' names, it can't be the name of a rule's tensor
CLOCK = ("step", "epoch", "progress", "lr")
IDLE = ""  # the phase of a pass in which no layer computes anything


@dataclass(frozen=True)
class Call:
    """A function of an emitted module, bound: `reads` are the arguments that the runtime supplies."""

    name: str
    role: str
    target: str | None
    reads: tuple[str, ...]
    function: Callable[..., Any]
    optimizer: str = TASK


def evaluate(calls: Iterable[Call], values: dict[str, Any]) -> dict[str, Any]:
    """Call one after the other, each with what it reads; `values` grows by every result, under the call's name."""
    for call in calls:
        values[call.name] = call.function(**{name: values[name] for name in call.reads})
    return values


def needed(wanted: Iterable[Call], calls: tuple[Call, ...]) -> tuple[Call, ...]:
    """`wanted` and the terms that they read, in the order of `calls`: terms before their readers."""
    names = {call.name for call in wanted}
    read: set[str] = set()
    chosen: list[Call] = []
    for call in reversed(calls):
        if call.name in names or (call.role == "term" and call.name in read):
            chosen.append(call)
            read.update(call.reads)
    return tuple(reversed(chosen))


class Bound:
    """A program with the values of its parameters; immutable, shared by all layers of a network that follow it.

    phases    the calls of every phase; `starts` and `draws` are those that make first and fresh values
    after     the phases after a step, in order: the program's own, then those of the constraints that it uses
    clocked   the counters that functions read
    families  the tensors of which there is one for every layer downstream
    """

    def __init__(self, program: Program, parameters: Mapping[str, float] | None = None) -> None:
        """Raises UserError for a parameter that the program doesn't have."""
        for name in parameters or {}:
            if name not in program.parameters:
                raise UserError(f"{program.rule} has no parameter `{name}`", suggest(name, program.parameters))
        self.program = program
        self.parameters = {**program.parameters, **(parameters or {})}
        self.phases = {phase: _bind(program, phase) for phase in dict.fromkeys(f.phase for f in program.functions)}
        self.calls = tuple(call for calls in self.phases.values() for call in calls)
        self.read = frozenset(name for call in self.calls for name in call.reads)
        self.draws = tuple(call for call in self.calls if call.role == "draw")
        self.starts = tuple(call for call in self.calls if call.role == "init")
        self.after = tuple(phase for phase in self.phases if phase.startswith(AFTER_STEP))
        self.clocked = tuple(name for name in CLOCK if name in self.read)
        self.families = tuple(t.name for t in program.tensors if any("[" in space for space in t.space))

    def attribute(self, name: str) -> str:
        """What a layer calls a tensor of the program."""
        return name

    def __deepcopy__(self, memo: dict[int, Any]) -> Bound:
        return self

    def __reduce__(self) -> tuple[type[Bound], tuple[Program, dict[str, float]]]:
        # The live module of a program has no place in a pickle: `replace` drops it, its text makes it anew.
        return type(self), (replace(self.program, parameters=dict(self.program.parameters)), self.parameters)


class ConstraintPlan(Bound):
    """A constraint that was added to a rule from outside; a layer has its tensors under its name."""

    def __init__(self, program: Program, parameters: Mapping[str, float] | None = None) -> None:
        """Raises UserError for what is no constraint."""
        super().__init__(program, parameters)
        if not self.after or any(phase not in (INIT, TASK) for phase in self.phases.keys() - set(self.after)):
            raise UserError(f"{program.rule} is no constraint: it does not act after a step alone")

    def attribute(self, name: str) -> str:
        """`n` of constant_norm is `constant_norm_n` in a layer; W and b are the layer's own."""
        return name if self.program.tensor(name).kind == "forward" else f"{self.program.rule}_{name}"


class Plan(Bound):
    """A learning rule.

    driven     the phases with an input of their own: layer by layer, nothing propagates
    evoked     other phases beside the task: they see the activity that the batch evokes
    passes     by (phase, whether errors travel in it), what a forward and backward pass computes
    reads_out  whether a function reads anything over the network's outputs
    serves_sending  the tensors that nothing but sending needs
    """

    def __init__(self, program: Program, parameters: Mapping[str, float] | None = None) -> None:
        """Raises UserError for an optimizer or a constraint, which are no learning rules by themselves, and for a
        signal that no layer can supply."""
        super().__init__(program, parameters)
        task = self.phases.get(TASK, ())
        if not any(call.role == "send" for call in task):
            raise UserError(f"{program.rule} is no learning rule: it sends no error to the layer below")
        others = [phase for phase in self.phases if phase not in (TASK, INIT, *self.after)]
        self.driven = tuple(p for p in others if any(call.role == "drive" for call in self.phases[p]))
        self.evoked = tuple(p for p in others if p not in self.driven)
        for phase in self.driven:
            missing = ERRORS & {name for call in self.phases[phase] for name in call.reads}
            if missing:
                raise UserError(f"{program.rule} reads {sorted(missing)[0]} in {phase}, where no errors travel")
        self.needs_phi = bool({"phi", "dphi", "y"} & self.read)
        self.reads_out = bool({"e", "target", "classes"} & self.read) or any("out" in t.space for t in program.tensors)
        owned = [tensor for tensor in program.tensors if tensor.kind != "forward"]  # W and b serve more than sending
        self.serves_sending = frozenset(tensor.name for tensor in owned if tensor.feedback_only)
        travelling = {phase: Pass(self, phase, True) for phase in (TASK, *self.evoked, IDLE)}
        self.passes = {(phase, True): passed for phase, passed in travelling.items()}
        self.passes |= {(phase, False): Pass(self, phase, False) for phase in (*self.evoked, IDLE)}
        self.slots = tuple(dict.fromkeys(slot for passed in self.passes.values() for slot in passed.slots))
        self.direct = any(passed.direct for passed in travelling.values())
        self.dense = any(passed.dense for passed in travelling.values())

    def travels(self, phase: str) -> bool:
        """Whether errors travel from layer to layer in a pass of this phase."""
        return phase == TASK or bool(ERRORS & {name for call in self.phases.get(phase, ()) for name in call.reads})

    def in_pass(self, phase: str, travels: bool) -> Pass:
        """What a pass computes; a rule without the phase does no more than send."""
        return self.passes.get((phase, travels)) or self.passes[IDLE, travels]


class Pass:
    """What one forward and backward pass through the network computes in a layer.

    outputs   by the input of a layer whose "gradient" it is, what the backward pass computes: `x`, a tensor that
              learns, `next S`, the slot of `S <- ...`, or `P by O`, the slot of a second optimizer's pseudo-gradient
    inputs    the inputs of a layer's differentiable function, in order
    slots     those of them that are slots
    later     the `<-` that `advance` computes, since nothing that it reads changes before
    direct    whether a function reads e; `dense`: or delta[k]
    """

    def __init__(self, plan: Plan, phase: str, travels: bool) -> None:
        self.serves_sending, self.families = plan.serves_sending, plan.families
        task, own = plan.phases.get(TASK, ()), plan.phases.get(phase, ())
        send = tuple(call for call in task if call.role == "send")
        self.calls = own if phase == TASK else (*(needed(send, task) if travels else ()), *own)
        self.outputs = self._outputs()
        self.slots = tuple(name for name in self.outputs if " " in name)
        self.later = tuple(c for c in self.calls if c.role == "assign" and f"next {c.target}" not in self.outputs)
        self.read = frozenset(name for call in needed(self.outputs.values(), self.calls) for name in call.reads)
        self.direct, self.dense = "e" in self.read, "delta_k" in self.read
        beside = [call for name, call in self.outputs.items() if name != "x"]
        self.dense_beside_sending = any("delta_k" in call.reads for call in needed(beside, self.calls))
        self.inputs = self._inputs(plan)

    def backward_calls(self, needs: frozenset[str], sends: bool) -> tuple[Call, ...]:
        """The calls for those inputs of a layer that need a gradient.

        Where a layer sends to nobody, what only serves its sending isn't learned.
        """
        wanted = [
            call
            for name, call in self.outputs.items()
            if name in needs and (sends or call.target not in self.serves_sending)
        ]
        return needed(wanted, self.calls)

    def _outputs(self) -> dict[str, Call]:
        # A `<-` that reads activity, or a tensor that the optimizer moves before `advance` runs, is computed in the
        # backward pass, so that it sees the values from before the step.
        moved = ACTIVITY | {call.target for call in self.calls if call.role == "grad"}
        first = {call.target: call for call in reversed(self.calls) if call.role == "grad"}
        first |= {call.target: call for call in self.calls if call.role == "grad" and call.optimizer == TASK}
        outputs: dict[str, Call] = {}
        for call in self.calls:
            if call.role == "send":
                outputs["x"] = call
            elif call.role == "grad" and call.target is not None:
                outputs[call.target if first[call.target] is call else f"{call.target} by {call.optimizer}"] = call
            elif call.role == "assign" and any(moved & set(c.reads) for c in needed((call,), self.calls)):
                outputs[f"next {call.target}"] = call
        return outputs

    def _inputs(self, plan: Plan) -> tuple[str, ...]:
        read = self.read | self.outputs.keys()
        tensors = [t.name for t in plan.program.tensors if t.kind != "forward" and t.name in read]
        signals = [name for name in ("target", *CLOCK) if name in read]
        visits = [VISITS] if any(slot.startswith("next ") for slot in self.slots) else []
        return ("x", "W", "b", *tensors, *self.slots, *visits, *signals)


def _bind(program: Program, phase: str) -> tuple[Call, ...]:
    code = program.module
    return tuple(
        Call(f.name, f.role, f.target, f.arguments, getattr(code, f.name), f.optimizer) for f in program.of_phase(phase)
    )
