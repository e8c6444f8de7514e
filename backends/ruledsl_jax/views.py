"""What the templates show of a binding, in the words of JAX. Imports no JAX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ruledsl.emit.backend import Module
from ruledsl.emit.binding import COUNTERS, FORWARD, Apart, Binding, Call, Output, Pass, is_family
from ruledsl.emit.expressions import constant
from ruledsl.emit.layout import let, targets, with_comma
from ruledsl.emit.line_breaking import statement
from ruledsl.emit.views import FROM_LAYER, PHI, called, inner_space, shape_of
from ruledsl.program import TASK, Tensor
from ruledsl_jax import optimizer_views


@dataclass(frozen=True)
class Facts:
    """What all views of a module know of its binding."""

    binding: Binding

    @cached_property
    def params(self) -> tuple[str, ...]:
        """W, b, and the tensors that have a pseudo-gradient in some phase."""
        taught = {output.target for _, output in self.binding.taught}
        return tuple(t.name for t in self.binding.tensors if t.name in FORWARD or t.name in taught)

    @cached_property
    def state(self) -> tuple[Tensor, ...]:
        """The other tensors of the rule."""
        return tuple(t for t in self.binding.tensors if t.name not in self.params)

    @cached_property
    def for_senders(self) -> tuple[str, ...]:
        """The tensors that a layer which sends to nobody does not have."""
        return self.binding.serves_sending

    @cached_property
    def beside(self) -> dict[str, Output]:
        """What arrives as the gradient of a second reference to a tensor of Params, by the name of the reference."""
        outputs = [o for own in self.binding.passes if own.errors for o in own.received]
        return {o.receiver: o for o in outputs if o.receiver and (o.kind == "grad" or o.target in self.params)}

    def annotation(self, name: str) -> str:
        """The type of a tensor."""
        if is_family(self.binding.tensor(name)):
            return "tuple[Array | None, ...]" + (" | None" if name in self.for_senders else "")
        return "Array | None" if name == "b" or name in self.for_senders else "Array"

    def unpacked(self, reads: Iterable[str]) -> str:
        """A line that gives Params their names, as far as they are read."""
        names = [name for name in self.params if name in {*reads, *FORWARD}]
        values = "params" if len(names) == len(self.params) else ", ".join(f"params.{name}" for name in names)
        return let(targets(names), values)

    def held(self, name: str) -> str:
        """A tensor outside of `affine`: `params.W`, `state.B`."""
        return f"{'params' if name in self.params else 'state'}.{name}"

    def serving(self, terms: Iterable[Call]) -> dict[str, str]:
        """What serves sending alone: tensors, and terms that read such; by name, what else a layer has that sends."""
        found = {name: name for name in self.for_senders}
        for call in terms:
            asked = next((name for name in call.arguments if name in found), None)
            found |= {call.result: asked} if asked else {}
        return found

    def keywords(self, reads: Iterable[str]) -> list[str]:
        """Parameters that are given by their names, those without a default first."""
        names, found = set(reads), []
        found += ["phi: Activation"] if names & PHI else []
        found += ["classes: int"] if "classes" in names else []
        found += ["target: Array"] if "target" in names else []
        found += [f"{name}: ArrayLike" for name in COUNTERS if name in names]
        numbers = {name: value for name, value in self.binding.parameters.items() if name in names}
        found += [f"{name}: ArrayLike = {constant(value)}" for name, value in numbers.items()]
        return ["*", *found] if found else []


@dataclass(frozen=True)
class PassView:
    """A pass with errors, as a function with a derivative of its own, and how it is applied to a layer."""

    own: Pass
    facts: Facts

    @property
    def affine(self) -> str:
        """The name of the function with a derivative of its own."""
        return "affine" if self.own.phase == TASK else f"affine_{self.own.phase}"

    # --- arguments ---

    @cached_property
    def static(self) -> tuple[str, ...]:
        """The arguments that are no arrays."""
        reads = self.own.reads
        return ("layer", *("phi",) * bool(PHI & reads), *("classes",) * ("classes" in self.own.scalars))

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """The tensors that it is given."""
        known = {*self.own.inputs, *self.own.families} | {o.target for o in self.own.outputs}
        return tuple(t.name for t in self.facts.binding.tensors if t.name in known)

    @cached_property
    def beside(self) -> tuple[str, ...]:
        """Second references to tensors, for what arrives as a gradient beside another one."""
        return tuple(o.receiver for o in self.own.received if o.receiver in self.facts.beside)

    @cached_property
    def scalars(self) -> tuple[str, ...]:
        """The counters and parameters that it is given."""
        known = (*COUNTERS, *self.facts.binding.parameters)
        return tuple(name for name in self.own.scalars if name in known)

    @cached_property
    def arrays(self) -> tuple[str, ...]:
        """All arguments that are arrays."""
        target = ("target",) * ("target" in self.own.reads)
        return (*self.tensors, *self.beside, "x", *target, *self.scalars, *("zeros",) * self.own.dense)

    @property
    def arguments(self) -> str:
        """Of `affine`."""
        return ", ".join((*self.static, *self.arrays))

    # --- forward ---

    @property
    def outputs(self) -> list[str]:
        """What it returns, by names."""
        return ["u", *["zero"] * self.own.direct, *["zeros"] * self.own.dense]

    @cached_property
    def residuals(self) -> list[str]:
        """What the backward pass reads: arguments, and u."""
        shaped = {o.target for o in self.own.outputs if o.own and not o.call.full}
        moved = {o.target for o in self.own.stored}
        kept = self.own.reads | shaped | moved | {*self.marker}
        names = [name for name in self.arrays if name in kept and name != "zeros"]
        return [*names, *["u"] * ("u" in self.own.reads)]

    # --- backward ---

    @cached_property
    def marker(self) -> list[str]:
        """A tensor that a layer which sends to nobody does not have; none in rules that always send."""
        return [name for name in self.facts.for_senders if name in self.tensors][:1]

    def when(self, sends: bool, value: str) -> str:
        """A value that is for layers that send alone."""
        if sends and self.marker:
            return f"None if {self.marker[0]} is None else {value}"
        return f"{value} if layer.sends else None" if sends else value

    @property
    def zeros(self) -> list[str]:
        """What arrives for the zeros that were handed on."""
        return ["arriving" if self.own.families else "delta_k"] * self.own.dense

    @property
    def terms(self) -> list[tuple[str, str]]:
        """The values that several outputs read, with their names."""
        serving = self.facts.serving(self.own.terms)
        return [(call.result, self.when(call.result in serving, called(call))) for call in self.own.terms]

    @property
    def sent(self) -> str:
        """The error for the layer below."""
        return self.when(True, self.value(next(output for output in self.own.outputs if output.kind == "send")))

    def value(self, output: Output) -> str:
        """What an output is, as the gradient of its target."""
        text = called(output.call)
        if output.kind == "assign":
            return f"{text} - {output.target}"
        return text if output.call.full else f"filled({text}, {output.target})"

    @property
    def returns(self) -> list[str]:
        """The gradients of the arrays."""
        found = {o.receiver if o.receiver in self.facts.beside else o.target: o for o in self.own.outputs}
        for_senders = self.facts.for_senders
        values = {name: self.when(o.target in for_senders, self.value(o)) for name, o in found.items()}
        values |= {"x": "sent", "zeros": "".join(self.zeros)}
        return [values.get(name, "None") for name in self.arrays]

    # --- how it is applied ---

    @property
    def parameters(self) -> list[str]:
        """Of the function that applies it."""
        more = ["beside: Beside"] * bool(self.beside) + ["zeros: Sequence[Array]"] * self.own.dense
        reads = {*self.own.reads, *self.own.scalars}
        return ["layer: Linear", "params: Params", "state: State", "x: Array", *more, *self.facts.keywords(reads)]

    @property
    def result(self) -> str:
        """Its type."""
        types = ["Array", *["Array"] * self.own.direct, *["tuple[Array, ...]"] * self.own.dense]
        return types[0] if len(types) == 1 else f"tuple[{', '.join(types)}]"

    @property
    def application(self) -> str:
        """`affine(layer, *vary_alike(...))`"""
        names = {name: f"state.{name}" for name in self.tensors if name not in self.facts.params}
        names |= {name: f"beside.{name}" for name in self.beside} | {"zeros": "tuple(downstream)"}
        given = [names.get(name, name) for name in self.arrays]
        return f"{self.affine}({', '.join(self.static)}, *vary_alike({', '.join(given)}))"

    @property
    def end(self) -> StageView:
        """What `<-` makes of the pass when it is over."""
        later = self.own.later
        return StageView(replace(later, outputs=(*self.own.stored, *later.outputs)), self.facts)


@dataclass(frozen=True)
class StageView:
    """What is stored after a pass or a step: all of it is computed before any of it is stored."""

    own: Apart
    facts: Facts

    def given(self, name: str) -> str:
        """An argument of a function."""
        special = {"b": "b", **FROM_LAYER}
        known = {t.name for t in self.facts.binding.tensors} - {call.result for call in self.own.terms}
        return special.get(name, self.facts.held(name) if name in known else name)

    def value(self, output: Output) -> str:
        """The next value of a tensor."""
        held = self.facts.held(output.target)
        if output.receiver:
            beside = output.receiver in self.facts.beside
            text = f"{held} + {'beside' if beside else 'changes'}.{output.receiver if beside else output.target}"
        else:
            text = called(output.call, self.given)
            text = text if output.call.full else f"filled({text}, {held})"
        optional = output.target == "b" or output.target in self.facts.for_senders
        return f"None if {held} is None else {text}" if optional else text

    @property
    def stores(self) -> list[str]:
        """Lines that store the results."""
        made: dict[str, list[str]] = {"params": [], "state": []}
        for output in self.own.outputs:
            of = "params" if output.target in self.facts.params else "state"
            made[of].append(f"{output.target}={self.value(output)}")
        used = {of: f"{of}._replace({', '.join(texts)})" for of, texts in made.items() if texts}
        if len(used) == 2:
            inner = [line for value in used.values() for line in with_comma(statement("", value, 8))]
            return ["    params, state = (", *inner, "    )"]
        return [line for of, value in used.items() for line in statement(f"{of} = ", value)]


@dataclass(frozen=True)
class PhaseView:
    """A phase without errors, as a function: with an input of its own, or with the one that the batch evokes."""

    own: Apart
    facts: Facts

    @property
    def driven(self) -> bool:
        """Whether it has an input of its own."""
        return self.own.drive is not None

    @cached_property
    def optimizers(self) -> list[str]:
        """The optimizers that are given something, in the order in which they occur."""
        return list(dict.fromkeys(o.optimizer for o in self.own.outputs if o.kind == "grad"))

    @cached_property
    def drive(self) -> frozenset[str]:
        """What drawing its input reads."""
        return frozenset(self.own.drive.arguments if self.own.drive else ())

    @property
    def parameters(self) -> list[str]:
        """Of the function."""
        x = [*["key: Key"] * ("key" in self.drive), "batch_size: int"] if self.driven else ["x: Array"]
        other = [name for name in ("delta", "e") if name in self.own.reads]
        words = self.facts.keywords(self.reads) or ["*"] * bool(other)
        words[1:1] = [f"{name}: Array" for name in other]
        return ["layer: Linear", "params: Params", "state: State", *x, *words]

    @property
    def result(self) -> str:
        """Its type."""
        types = ["Array"] * (not self.driven) + ["Params"] * len(self.optimizers) + self.stored or ["State"]
        return types[0] if len(types) == 1 else f"tuple[{', '.join(types)}]"

    def names(self, number: int) -> list[str]:
        """What somebody may call the results, of the layer of that number."""
        gradients = [f"gradients{'' if by == TASK else f'_by_{by}'}" for by in self.optimizers]
        stored = [f"{name.lower()}_{number}" for name in self.stored]
        return [*["u"] * (not self.driven), *gradients, *stored] or [f"state_{number}"]

    @property
    def stored(self) -> list[str]:
        """Params, State: as far as the phase assigns something of them."""
        into = {o.target in self.facts.params for o in self.own.outputs if o.kind == "assign"}
        return ["Params"] * (True in into) + ["State"] * (False in into)

    @property
    def sending_only(self) -> bool:
        """Whether it is for layers that send."""
        return bool(self.own.outputs) and self.own.sending_only

    def given(self, name: str) -> str:
        """An argument of a function."""
        stateful = {tensor.name for tensor in self.facts.state} - {call.result for call in self.own.terms}
        key = f'named(key, "x", "{self.own.phase}")'
        drawing = {"shape": "(batch_size, *layer.pre_shape)", "key": key} if self.driven else {}
        return {**FROM_LAYER, **drawing}.get(name, f"state.{name}" if name in stateful else name)

    @cached_property
    def reads(self) -> frozenset[str]:
        """Everything that it reads."""
        return self.own.reads | self.drive

    @property
    def unpacked(self) -> str:
        """A line that gives Params their names."""
        return self.facts.unpacked(self.reads | {output.target for output in self.own.outputs})

    @property
    def terms(self) -> list[tuple[str, str]]:
        """The values that several results read, with their names."""
        serving = self.facts.serving(self.own.terms)
        return [(c.result, self.when(serving.get(c.result), called(c, self.given))) for c in self.own.terms]

    def when(self, asked: str | None, value: str) -> str:
        """A value that only layers that send have: those that have the tensor `asked`."""
        if asked is None or self.sending_only:
            return value
        return f"None if {self.given(asked)} is None else {value}"

    def value(self, output: Output) -> str:
        """A result."""
        text = called(output.call, self.given)
        if not output.call.full:
            text = f"filled({text}, {self.given(output.target)})"
        if output.target == "b":
            return f"None if params.b is None else {text}"
        return self.when(output.target if output.target in self.facts.for_senders else None, text)

    @property
    def returns(self) -> list[str]:
        """The results."""
        found = ["u"] * (not self.driven)
        for optimizer in self.optimizers:
            mine = {o.target: o for o in self.own.outputs if o.kind == "grad" and o.optimizer == optimizer}
            values = [(name, self.value(mine[name]) if name in mine else "None") for name in self.facts.params]
            found.append(self.made("Params", values))
        for stored in self.stored:
            names = self.facts.params if stored == "Params" else tuple(t.name for t in self.facts.state)
            mine = {o.target: o for o in self.own.outputs if o.kind == "assign" and o.target in names}
            values = [(name, self.value(output)) for name, output in mine.items()]
            found.append(self.made(stored if len(mine) == len(names) else f"{stored.lower()}._replace", values))
        return found or ["state"]

    @staticmethod
    def made(what: str, values: Sequence[tuple[str, str]]) -> str:
        """`State(B=...)`"""
        return f"{what}({', '.join(f'{name}={value}' for name, value in values)})"


@dataclass(frozen=True)
class ModuleView:
    """Everything else of a rule or a constraint: first values, and what happens between steps.

    constraint   the name of a constraint, whose tensors stand beside those of a rule
    """

    facts: Facts
    passes: tuple[PassView, ...]
    phases: tuple[PhaseView, ...]
    after: tuple[StageView, ...]
    constraint: str = ""

    @property
    def binding(self) -> Binding:
        return self.facts.binding

    @property
    def task(self) -> PassView:
        return self.passes[0]

    # --- first values ---

    @cached_property
    def init_reads(self) -> frozenset[str]:
        """What the functions of first values read."""
        return self.binding.start_reads | {"classes" for tensor, _ in self.binding.starts if "out" in tensor.space}

    @property
    def init_parameters(self) -> list[str]:
        """Of init."""
        words = self.facts.keywords(self.init_reads - set(COUNTERS))[1:]
        required = [word for word in words if "=" not in word]
        if not self.passes:
            key = ["key: Key"] * ("key" in self.binding.start_reads)
            return ["layer: Linear", "params: Any", *key, *(["*", *words] if words else [])]
        family = ["downstream: Sequence[Linear | None] = ()"] * bool(self.binding.families)
        sends = ["sends: bool = True"] if self.facts.for_senders else []
        given = ["W: Array | None = None", "b: Array | None = None"]
        optional = [word for word in words if "=" in word]
        return ["layer: Linear", "key: Key", *family, "*", *required, *given, *sends, *optional]

    def shape(self, tensor: Tensor) -> str:
        """The shape of a tensor."""
        far = f"(classes, *layer.{inner_space(tensor)}_shape)" if inner_space(tensor) else "(classes,)"
        return shape_of(tensor, "(*at_k.post_shape, *layer.pre_shape)", far)

    def start(self, tensor: Tensor, call: Call, given: Mapping[str, str], like: str = "W") -> str:
        """A first value, or one that is drawn anew; `given`: what its arguments are called, beside their own names."""
        text = called(call, lambda name: {**FROM_LAYER, **given}.get(name, name))
        if "key" in call.arguments or (call.full and tensor.space):
            return f"{text}.astype({like}.dtype)"
        if not tensor.space:
            return f"jnp.asarray({text}, {like}.dtype)"
        return f"jnp.full({given['shape']}, {text}, {like}.dtype)"

    def sizes(self, tensor: Tensor, shape: str, sources: str) -> dict[str, str]:
        """What the arguments of every draw are called."""
        names = [f'"{tensor.stream}"', *["k"] * is_family(tensor)]
        names += [f'"{self.constraint}"'] * bool(self.constraint)
        return {
            "shape": shape,
            "key": f"named(key, {', '.join(names)})",
            "sources": sources,
            "targets": f"math.prod(layer.{inner_space(tensor) or 'pre'}_shape)",
        }

    def first(self, tensor: Tensor, call: Call) -> str:
        """A first value; of a family, for the layer `at_k`."""
        family = is_family(tensor)
        shape, sources = (
            "shape" if family else self.shape(tensor),
            "math.prod(at_k.post_shape)" if family else "classes",
        )
        given = {**self.sizes(tensor, shape, sources), "b": "bias", **dict.fromkeys(COUNTERS, "0.0")}
        return self.start(tensor, call, given)

    # --- between steps ---

    @cached_property
    def stages(self) -> list[StageView]:
        """What `advance` stores, one after the other."""
        first = [self.task.end] if self.passes and self.task.end.own.outputs and not self.phased else []
        return [*first, *self.after]

    @property
    def phased(self) -> bool:
        """Whether there are phases beside the task. Then what a pass leaves is stored before the next phase begins."""
        return len(self.passes) > 1 or bool(self.phases)

    @property
    def ends(self) -> list[PassView]:
        """The passes whose results have a function of their own that stores them."""
        own = self.passes if self.phased else self.passes[1:]
        return [each for each in own if each.end.own.outputs]

    def arriving(self, stages: Iterable[StageView]) -> list[str]:
        """The parameters for what a backward pass has computed."""
        arrived = [o for stage in stages for o in stage.own.outputs if o.receiver]
        beside = any(o.receiver in self.facts.beside for o in arrived)
        state = any(o.receiver not in self.facts.beside for o in arrived)
        return ["changes: State"] * state + ["beside: Beside"] * beside

    def advance_parameters(self, stages: Sequence[StageView], drawn: bool = True) -> list[str]:
        """Of a function that stores."""
        reads = {name for stage in stages for name in stage.own.reads} | (self.binding.draw_reads if drawn else set())
        words = self.facts.keywords(reads)
        if "batch_size" in reads:
            words = ["*", "batch_size: int", *words[1:]]
        key = ["key: Key"] * (drawn and "key" in self.binding.draw_reads)
        params = f"params: {'Params' if self.passes else 'Any'}"
        return ["layer: Linear", params, "state: State", *self.arriving(stages), *key, *words]

    @property
    def redrawn(self) -> list[str]:
        """What is drawn anew, as fields of State."""
        values = []
        held = {t.name: self.facts.held(t.name) for t in self.binding.tensors}
        for tensor, call in self.binding.draws:
            own = "map_k" if is_family(tensor) else held[tensor.name]
            sources = "map_k.size // math.prod(layer.pre_shape)" if is_family(tensor) else f"len({own})"
            sizes = self.sizes(tensor, f"{own}.shape", sources)
            value = self.start(tensor, call, {**held, "b": "bias", **sizes}, own)
            if is_family(tensor):
                value = f"tuple(None if map_k is None else {value} for k, map_k in enumerate({held[tensor.name]}))"
            if tensor.name in self.facts.for_senders:
                value = f"None if {held[tensor.name]} is None else {value}"
            values.append(f"{tensor.name}={value}")
        return values

    # --- words ---

    def lacks(self, names: Iterable[str]) -> str:
        """A sentence on what a layer that sends to nobody does not have."""
        lacking = [name for name in names if name in self.facts.for_senders]
        what = f"none of {', '.join(lacking)}" if len(lacking) > 2 else f"no {' and no '.join(lacking)}"
        return f" A layer that sends to nobody has {what}." if lacking else ""

    @staticmethod
    def given(parameters: Iterable[str], number: int) -> str:
        """What the layer of that number gives to a function, in an example: all that has no value of its own."""
        required = [word.partition(":")[0] for word in parameters if ":" in word and "=" not in word]
        examples = {**EXAMPLES, "batch_size": "batch_size=32"}
        examples |= {name: f"{name}_{number}" for name in ("params", "state", "changes", "beside")}
        return "".join(f", {examples.get(name, name)}" for name in required[1:])

    @property
    def far(self) -> str:
        """How maps from far away are stored, in words."""
        parts = [f"{name}[k] is [*post of layer k, *pre]" for name in self.binding.families]
        for tensor in self.binding.tensors:
            if "out" in tensor.space and len(tensor.space) == 2:
                parts.append(f"{tensor.name} is [classes, *{inner_space(tensor)}]")
        return f"; {', '.join(parts)}" if parts else ""

    @property
    def others(self) -> str:
        """Sentences on the gradients that are for other optimizers than the task's."""
        found: dict[str, list[str]] = {}
        for output in (output for view in self.passes for output in view.own.outputs):
            if output.kind == "grad" and output.optimizer != TASK:
                found.setdefault(output.optimizer, []).append(output.receiver or output.target)
        joined = {by: " and ".join(dict.fromkeys(names)) for by, names in found.items()}
        return "".join(f" Those of {names} go to the optimizer `{by}`." for by, names in joined.items())


# --- what the templates are given ---


EXAMPLES = {"phi": "phi=jax.nn.relu", "classes": "classes=10"}
EXAMPLES |= {name: f"{name}={name}" for name in ("target", "delta", "e", *COUNTERS)}
"""What is given by name, in the examples of docstrings."""


def shown(module: Module) -> dict[str, object]:
    """Everything that the templates of this backend print, beside the functions."""
    binding, facts = module.binding, Facts(module.binding)
    common: dict[str, object] = {
        "kind": module.kind,
        "facts": facts,
        "schedule": module.schedule,
        "binding": binding,
        "module": None,
        "optimizer": None,
    }
    if module.kind == "optimizer":
        return common | optimizer_views.shown(module)
    after = tuple(StageView(own, facts) for own in binding.after)
    if module.kind == "constraint":
        return common | {"module": ModuleView(facts, (), (), after, module.rule)}
    if module.kind != "rule" or binding.task is None:
        return common
    passes = [PassView(own, facts) for own in binding.passes if own.errors]
    phases = [PhaseView(own, facts) for own in binding.driven]
    phases += [PhaseView(_silent(own), facts) for own in binding.evoked if not own.errors]
    return common | {"module": ModuleView(facts, tuple(passes), tuple(phases), after)}


def _silent(own: Pass) -> Apart:
    """A phase that sees the batch and in which no errors travel: all of it is computed at once."""
    terms = dict.fromkeys((*own.terms, *own.later.terms))
    return Apart(own.phase, None, tuple(terms), (*own.outputs, *own.later.outputs), own.reads | own.later.reads)
