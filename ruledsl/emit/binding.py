"""Binding: what every phase of a layer reads, saves, sends, hands to which optimizer, and assigns when.

It follows from the functions of a module alone, and is the same for all backends: their templates print it. Nothing is
left to be decided while a network learns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ruledsl.emit.functions import Function, Tensor
from ruledsl.ir.phases import AFTER_STEP, INIT, TASK

ERRORS = frozenset({"delta", "e", "delta_k"})
ACTIVITY = ERRORS | {"x", "u", "y", "target", "batch_size"}
COUNTERS = ("step", "epoch", "progress", "lr")
FORWARD = ("W", "b")
SENDS = "sends"  # whether a layer has somebody to send an error to, where no error in the pass could tell


@dataclass(frozen=True)
class Condition:
    """When a value is computed: where one of these sets of inputs needs a gradient as a whole; no set at all: always.

    A tensor that serves sending alone is not learned in a layer that sends to nobody: `{"B", "x"}`.
    """

    any_of: tuple[frozenset[str], ...] = ()

    @property
    def always(self) -> bool:
        """Whether nothing has to be asked."""
        return not self.any_of

    def __or__(self, other: Condition) -> Condition:
        """Where one of the two holds; a set that contains another one adds nothing."""
        if self.always or other.always:
            return Condition()
        sets = {*self.any_of, *other.any_of}
        least = [one for one in sets if not any(other < one for other in sets)]
        return Condition(tuple(sorted(least, key=lambda one: (len(one), sorted(one)))))

    def written(self, order: Sequence[str]) -> str:
        """As Python, of names `needs_x`; `order` is that of the inputs."""
        sets = [" and ".join(_flag(name) for name in (*order, SENDS) if name in one) for one in self.any_of]
        return " or ".join(sorted(sets, key=len)) if len(sets) < 2 else " or ".join(_bracketed(sets))


def _flag(name: str) -> str:
    return name if name == SENDS else f"needs_{name}"


def _bracketed(sets: list[str]) -> list[str]:
    return [f"({text})" if " and " in text else text for text in sorted(sets, key=len)]


@dataclass(frozen=True)
class Call:
    """A function of the module with what it is given: `result = function(arguments)`.

    full   whether the value has the whole shape of what it is for, see `Function`
    """

    function: str
    arguments: tuple[str, ...]
    result: str
    condition: Condition = Condition()
    full: bool = True


@dataclass(frozen=True)
class Output:
    """What a pass computes for one receiver.

    kind      `send`: the error for the layer below; `grad`: a pseudo-gradient of `target`; `assign`: its next value
    own       whether it arrives as the gradient of `target` itself (`send`: of x). Where not, `receiver` names the
              tensor that it is written to: a next value, or what a second optimizer is given for the same tensor
    """

    kind: Literal["send", "grad", "assign"]
    target: str
    call: Call
    optimizer: str = TASK
    receiver: str | None = None

    @property
    def own(self) -> bool:
        """Whether it arrives as the gradient of the target."""
        return self.receiver is None


@dataclass(frozen=True)
class Once:
    """What makes the pseudo-gradient of a target from what the backward passes of a phase have summed, once a step.

    call   one of its arguments, `summed`, is that; the others are no activity
    """

    phase: str
    target: str
    optimizer: str
    call: Call
    summed: str


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass through a layer.

    phase      `task`, or a phase of the rule that sees the batch
    errors     whether errors travel in it, from layer to layer
    learned    the inputs whose gradient means something, x first: `needs_x`, `needs_W`
    tensors    further tensors that its functions read, in order; `families`: those of them with one for every layer k
    scalars    numbers and functions that are given along: parameters, counters, `phi`, `classes`, `batch_size`
    saved      what the backward pass reads of the forward pass, and under which condition
    terms      values that several outputs read
    outputs    what it computes
    later      next values that need no activity, and their terms: computed when the pass is over
    """

    phase: str
    errors: bool
    learned: tuple[str, ...]
    tensors: tuple[str, ...]
    families: tuple[str, ...]
    scalars: tuple[str, ...]
    saved: tuple[tuple[str, Condition], ...]
    terms: tuple[Call, ...]
    outputs: tuple[Output, ...]
    later: Apart
    reads: frozenset[str]

    @property
    def direct(self) -> bool:
        """Whether it reads e, the error at the network's output."""
        return "e" in self.reads

    @property
    def direct_to_send(self) -> bool:
        """Whether it reads e for nothing but what a layer with somebody to send to computes."""
        readers = {call.result for call in self.terms if "e" in call.arguments}
        conditions = [o.call.condition for o in self.outputs if {"e", *readers} & set(o.call.arguments)]
        return all(not each.always and all("x" in one for one in each.any_of) for each in conditions)

    @property
    def dense(self) -> bool:
        """Whether it reads delta[k], the errors of the layers downstream."""
        return "delta_k" in self.reads

    @property
    def dense_beside_sending(self) -> bool:
        """Whether it reads delta[k] for more than what it sends."""
        readers = {call.result for call in self.terms if "delta_k" in call.arguments}
        return any({"delta_k", *readers} & set(o.call.arguments) for o in self.outputs if o.kind != "send")

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """When its values are computed."""
        return tuple(call.condition for call in (*self.terms, *(output.call for output in self.outputs)))

    @property
    def stored(self) -> tuple[Output, ...]:
        """The next values that are computed while it runs."""
        return tuple(output for output in self.received if output.kind == "assign")

    @property
    def received(self) -> tuple[Output, ...]:
        """The outputs that are written to a tensor of their own."""
        return tuple(output for output in self.outputs if not output.own)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Everything that the differentiable function is given as one tensor, in order."""
        return (*self.learned, *self.tensors)

    def of(self, name: str) -> Output | None:
        """The output that arrives as the gradient of an input."""
        return next((o for o in self.outputs if o.own and o.target == name), None)


@dataclass(frozen=True)
class Apart:
    """What needs no pass: a phase with an input of its own, what is done after a step, or when a pass is over.

    drive   draws x, where a phase has an input of its own
    terms, outputs   as in a pass; nothing of it depends on what needs a gradient
    """

    phase: str
    drive: Call | None
    terms: tuple[Call, ...]
    outputs: tuple[Output, ...]
    reads: frozenset[str]
    serves_sending: frozenset[str] = frozenset()

    @property
    def sending_only(self) -> bool:
        """Whether all of it serves sending, so that a layer that sends to nobody has nothing to do."""
        return all(output.target in self.serves_sending for output in self.outputs)


@dataclass(frozen=True)
class Binding:
    """A rule, optimizer or constraint, bound.

    starts, draws  the calls that make first and fresh values, in the order in which they can be made
    task           the pass of the phase `task`; None for what is no learning rule
    evoked         the passes of other phases that see the batch
    driven         phases with an input of their own, layer by layer
    after          what happens after a step, stage by stage
    tensors        as in `ruledsl.program.Program`
    once           pseudo-gradients that have something that counts once a step
    unscaled       of the results of passes, those that do not scale with the loss; `batched`: that do not add up over
                   micro-batches
    """

    starts: tuple[tuple[Tensor, Call], ...]
    draws: tuple[tuple[Tensor, Call], ...]
    task: Pass | None
    evoked: tuple[Pass, ...]
    driven: tuple[Apart, ...]
    after: tuple[Apart, ...]
    tensors: tuple[Tensor, ...]
    parameters: Mapping[str, float] = field(default_factory=dict)
    clocked: tuple[str, ...] = ()
    once: tuple[Once, ...] = ()
    unscaled: tuple[str, ...] = ()
    batched: tuple[str, ...] = ()

    @property
    def reads(self) -> frozenset[str]:
        """Everything that a function reads."""
        calls = [call for _, call in (*self.starts, *self.draws)] + [once.call for once in self.once]
        drives = [own.drive for own in self.driven if own.drive]
        parts: list[Pass | Apart] = [*self.passes, *self.driven, *self.after]
        made = {name for call in (*calls, *drives) for name in call.arguments}
        return frozenset(made).union(*(own.reads for own in (*parts, *(own.later for own in self.passes))))

    @property
    def reads_phi(self) -> bool:
        """Whether a function reads the layer's activation."""
        return bool({"phi", "dphi", "y"} & self.reads)

    @property
    def reads_out(self) -> bool:
        """Whether a function reads anything over the network's outputs, or their number."""
        return bool({"e", "target", "classes"} & self.reads) or any("out" in t.space for t in self.tensors)

    @property
    def direct(self) -> bool:
        """Whether a pass reads e."""
        return any(own.direct for own in self.passes)

    @property
    def dense(self) -> bool:
        """Whether a pass reads delta[k]."""
        return any(own.dense for own in self.passes)

    @property
    def families(self) -> tuple[str, ...]:
        """The tensors of which there is one for every layer downstream."""
        return tuple(tensor.name for tensor in self.tensors if is_family(tensor))

    @property
    def with_errors(self) -> tuple[str, ...]:
        """The phases beside the task that see the batch, and in which errors travel."""
        return tuple(own.phase for own in self.evoked if own.errors)

    @property
    def without_errors(self) -> tuple[str, ...]:
        """The phases that see the batch, and in which no errors travel."""
        return tuple(own.phase for own in self.evoked if not own.errors)

    @property
    def for_senders(self) -> bool:
        """Whether a layer that sends to nobody lacks something that others have."""
        apart: list[Pass | Apart] = [*self.evoked, *self.driven]
        beside = {o.target for own in apart for o in own.outputs}
        return any(optional(t) and t.name != "b" for t in self.tensors) or bool(beside & {*self.serves_sending})

    @property
    def serves_sending(self) -> tuple[str, ...]:
        """The rule's own tensors that serve sending alone."""
        return tuple(t.name for t in self.tensors if t.feedback_only and t.kind != "forward")

    @property
    def taught(self) -> tuple[tuple[str, Output], ...]:
        """The pseudo-gradients, each with its phase."""
        parts: list[Pass | Apart] = [*self.passes, *self.driven]
        return tuple((own.phase, output) for own in parts for output in own.outputs if output.kind == "grad")

    @property
    def others(self) -> bool:
        """Whether a pseudo-gradient is for an optimizer beside the task's."""
        return any(output.optimizer != TASK for _, output in self.taught)

    @property
    def start_reads(self) -> frozenset[str]:
        """What the functions of first values read."""
        return frozenset(name for _, call in self.starts for name in call.arguments)

    @property
    def draw_reads(self) -> frozenset[str]:
        """What the functions of values that are drawn anew read."""
        return frozenset(name for _, call in self.draws for name in call.arguments)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """All of them, the task first."""
        return (*((self.task,) if self.task else ()), *self.evoked)

    def tensor(self, name: str) -> Tensor:
        """The tensor of a name; raises KeyError."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)


def is_family(tensor: Tensor) -> bool:
    """Whether there is one for every layer downstream."""
    return any("[" in space for space in tensor.space)


def optional(tensor: Tensor) -> bool:
    """Whether there are layers without it: a bias, or a large map from far away in a layer that sends to nobody."""
    return tensor.name == "b" or (("out" in tensor.space or is_family(tensor)) and tensor.feedback_only)


def bind(functions: Sequence[Function], tensors: Sequence[Tensor], parameters: Mapping[str, float]) -> Binding:
    """The binding of a module that has these functions, terms before their readers."""
    return _Binder(functions, tensors, parameters).binding()


class _Binder:
    def __init__(
        self, functions: Sequence[Function], tensors: Sequence[Tensor], parameters: Mapping[str, float]
    ) -> None:
        self.functions, self.tensors, self.parameters = functions, tuple(tensors), parameters
        self.names = [tensor.name for tensor in tensors]
        self.families = tuple(t.name for t in tensors if is_family(t))
        self.serves_sending = frozenset(t.name for t in tensors if t.feedback_only and t.kind != "forward")
        self.taken = {*self.names, *parameters, *(f.name for f in functions)}

    def binding(self) -> Binding:
        """Everything."""
        phases = list(dict.fromkeys(f.phase for f in self.functions if f.phase != INIT))
        after = [phase for phase in phases if phase.startswith(AFTER_STEP)]
        own = [phase for phase in phases if phase not in (TASK, *after)]
        driven = [phase for phase in own if any(f.role == "drive" for f in self.of(phase))]
        rule = any(f.role == "send" for f in self.of(TASK))
        made = {f.target: _call(f) for f in self.functions if f.role in ("init", "draw")}
        order = [f.target for f in self.functions if f.role in ("init", "draw")]
        first = [(self.tensor(name), made[name]) for name in order if name]
        drawn = [f.target for f in self.functions if f.role == "draw"]
        read = {name for f in self.functions for name in f.arguments}
        passing = [f for f in self.functions if f.phase not in (*driven, *after)]
        return Binding(
            starts=tuple(first),
            draws=tuple((tensor, call) for tensor, call in first if tensor.name in drawn),
            task=self.of_pass(TASK) if rule else None,
            evoked=tuple(self.of_pass(phase) for phase in own if phase not in driven),
            driven=tuple(self.alone(phase) for phase in driven),
            after=tuple(self.alone(phase) for phase in after),
            tensors=self.tensors,
            parameters=self.parameters,
            clocked=tuple(name for name in COUNTERS if name in read),
            once=tuple(self.once(f) for f in self.functions if f.role == "complete"),
            unscaled=tuple(dict.fromkeys(f.target or "send" for f in passing if not f.scales)),
            batched=tuple(dict.fromkeys(f.target or "send" for f in passing if not f.adds)),
        )

    def once(self, f: Function) -> Once:
        known = {*self.names, *self.parameters, *ACTIVITY, *COUNTERS, "layer", "fan_in", "fan_out", "classes"}
        (summed,) = (name for name in f.arguments if name not in known)
        return Once(f.phase, f.target or "", f.optimizer, _call(f), summed)

    def of(self, phase: str) -> list[Function]:
        return [f for f in self.functions if f.phase == phase]

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name)

    # --- a pass ---

    def of_pass(self, phase: str) -> Pass:
        task, own = self.of(TASK), self.of(phase)
        errors = phase == TASK or bool(ERRORS & {name for f in own for name in f.arguments})
        functions = own if phase == TASK else [*(_needed([f for f in task if f.role == "send"], task) * errors), *own]
        outputs = self.outputs(functions, "x" if errors else SENDS)
        computed = {output.call.function for output in outputs}
        later = [f for f in functions if f.role == "assign" and f.name not in computed]
        conditions = self.conditions(functions, outputs)
        terms = [_call(f, conditions[f.name]) for f in functions if f.role == "term" and f.name in conditions]
        reads: dict[str, Condition] = {}
        for call in (*terms, *(output.call for output in outputs)):
            for name in (*call.arguments, *(("u", "phi") if "y" in call.arguments else ())):
                reads[name] = reads[name] | call.condition if name in reads else call.condition
        learned = tuple(
            name
            for name in ("x", *self.names)
            if name in ("x", *FORWARD) or any(o.own and o.target == name for o in outputs)
        )
        activity = ("x", *self.names, "u", "target")
        asked = any(SENDS in one for o in outputs for one in o.call.condition.any_of)
        return Pass(
            phase=phase,
            errors=errors,
            learned=learned,
            tensors=tuple(n for n in self.names if n in reads and n not in (*learned, *self.families)),
            families=tuple(name for name in self.families if name in reads),
            scalars=tuple(
                name
                for name in ("phi", "dphi", "classes", "batch_size", SENDS, *COUNTERS, *self.parameters)
                if name in reads or (name == "classes" and "e" in reads) or (name == SENDS and asked)
            ),
            saved=tuple((name, reads[name]) for name in activity if name in reads and name not in self.families),
            terms=tuple(terms),
            outputs=outputs,
            later=self.apart(phase, later, functions),
            reads=frozenset(reads),
        )

    def outputs(self, functions: list[Function], sends: str) -> tuple[Output, ...]:
        # A `<-` that reads activity, or a tensor that the optimizer moves before the pass is over, is computed in the
        # backward pass, so that it sees the values from before the step.
        grads = [f for f in functions if f.role == "grad"]
        moved = ACTIVITY | {f.target for f in grads}
        first = {f.target: f for f in reversed(grads)} | {f.target: f for f in grads if f.optimizer == TASK}
        found: list[Output] = []
        for f in functions:
            condition = self.wanted_by(f, sends)
            if f.role == "send":
                found.append(Output("send", "x", _call(f, Condition((frozenset({"x"}),)))))
            elif f.role == "grad" and f.target is not None:
                receiver = None if first[f.target] is f else self.fresh(f"{f.target}_by_{f.optimizer}")
                found.append(Output("grad", f.target, _call(f, condition), f.optimizer, receiver))
            elif f.role == "assign" and f.target is not None:
                read = {name for part in _needed([f], functions) for name in part.arguments}
                if moved & read:
                    found.append(
                        Output("assign", f.target, _call(f, condition), receiver=self.fresh(f"{f.target}_next"))
                    )
        return tuple(found)

    def wanted_by(self, f: Function, sends: str) -> Condition:
        """What has to need a gradient for an equation to be computed."""
        if f.role != "grad" or f.target is None:
            return Condition()
        return Condition((frozenset({f.target, sends} if f.target in self.serves_sending else {f.target}),))

    def conditions(self, functions: list[Function], outputs: Sequence[Output]) -> dict[str, Condition]:
        """By function, when its value is read; those that nobody reads are missing."""
        found: dict[str, Condition] = {output.call.function: output.call.condition for output in outputs}
        for f in reversed(functions):
            if f.name not in found:
                continue
            for term in functions:
                if term.role == "term" and term.target in f.arguments:
                    known = found.get(term.name)
                    found[term.name] = found[f.name] if known is None else known | found[f.name]
        return found

    def fresh(self, wish: str) -> str:
        """A name that no tensor, parameter or function has."""
        while wish in self.taken:
            wish += "_"
        return wish

    # --- without a pass ---

    def alone(self, phase: str) -> Apart:
        """All of a phase."""
        functions = self.of(phase)
        computed = self.apart(phase, [f for f in functions if f.role in ("grad", "assign")], functions)
        drive = next((_call(f) for f in functions if f.role == "drive"), None)
        return replace(computed, drive=drive, serves_sending=self.serves_sending)

    def apart(self, phase: str, results: list[Function], functions: list[Function]) -> Apart:
        """What some of the functions compute, without a pass."""
        outputs = tuple(
            Output("grad" if f.role == "grad" else "assign", f.target or "", _call(f), f.optimizer) for f in results
        )
        calls = _needed(results, functions)
        return Apart(
            phase=phase,
            drive=None,
            terms=tuple(_call(f) for f in calls if f.role == "term"),
            outputs=outputs,
            reads=frozenset(name for f in calls for name in f.arguments),
        )


def _call(f: Function, condition: Condition | None = None) -> Call:
    return Call(f.name, f.arguments, f.target or f.name, condition or Condition(), f.full)


def _needed(wanted: Iterable[Function], functions: Sequence[Function]) -> list[Function]:
    """`wanted` and the terms that they read, terms before their readers."""
    names = {f.name for f in wanted}
    read: set[str] = set()
    chosen: list[Function] = []
    for f in reversed(functions):
        if f.name in names or (f.role == "term" and f.target in read):
            chosen.append(f)
            read.update(f.arguments)
    return chosen[::-1]
