"""What the templates show of a binding, in the words of PyTorch. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from ruledsl.emit.backend import Module
from ruledsl.emit.binding import COUNTERS, SENDS, Apart, Binding, Call, Condition, Output, Pass, optional
from ruledsl.emit.expressions import constant
from ruledsl.emit.layout import quoted
from ruledsl.emit.naming import Names, camel_case
from ruledsl.emit.views import FROM_LAYER, LAYER, called, scheduled, shape_of
from ruledsl.program import TASK, Tensor
from ruledsl_torch.attributes import ATTRIBUTES
from ruledsl_torch.optimizer_views import optimizer_view

FORWARD = {"W": "weight", "b": "bias"}
LONG = 100  # a line that is broken if it can be


def attribute(name: str) -> str:
    """What a layer calls a tensor of its rule."""
    return FORWARD.get(name, name)


def unpacked(names: Sequence[str]) -> str:
    """Targets for a tuple: `(x,)` for a single one, and lines of their own for many."""
    if len(", ".join(names)) > LONG - 20:
        return "\n".join(["(", *(f"            {name}," for name in names), "        )"])
    return f"({names[0]},)" if len(names) == 1 and not names[0].startswith("*") else ", ".join(names)


def trimmed(names: list[str]) -> list[str]:
    """Targets as far as the last one that is read."""
    while names and names[-1] == "_":
        names.pop()
    return names


@dataclass(frozen=True)
class PassView:
    """A pass, as an autograd.Function; `name`: of its class; `rescaled`: see `ruledsl.emit.backend.Module`."""

    own: Pass
    name: str
    binding: Binding
    rescaled: bool = False

    @cached_property
    def receivers(self) -> tuple[str, ...]:
        """Tensors that the backward pass writes to."""
        names = tuple(output.receiver for output in self.own.received if output.receiver)
        return (*names, *("backward_passes",) * bool(self.own.stored or self.binding.batched))

    @property
    def many(self) -> bool:
        """Whether there are inputs for every layer downstream."""
        return self.own.dense or bool(self.own.families)

    @cached_property
    def scalars(self) -> tuple[str, ...]:
        """What is given along that is no tensor."""
        return tuple(name for name in self.own.scalars if name != "batch_size")

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """What may need a gradient, in the order of the arguments."""
        return (*("u",) * (not self.own.errors), *self.own.learned)

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """Of the function's forward, after ctx."""
        target = ("target",) * ("target" in self.own.reads)
        given = (*self.inputs, *self.own.tensors, *target, *self.receivers, *self.scalars, "layer")
        return (*given, *("shapes", "*rest") * self.many)

    # --- forward ---

    @property
    def zeros(self) -> str:
        """What a pass returns beside u."""
        parts = ["u.new_zeros(len(x), classes)"] * self.own.direct
        parts += ["*(u.new_zeros(()).expand(len(x), *shape) for shape in shapes)"] * self.own.dense
        return ", ".join(parts)

    @property
    def inputs_read(self) -> str:
        """The targets of the inputs, as far as anything of them is kept; empty where nothing is."""
        kept = {*self.saved, *self.noted, *self.shaped}
        kept |= {"x"} if "batch_size" in kept else set()
        kept |= {"shapes", "*rest"} if self.own.families else set()
        names = trimmed([name if name in kept else "_" for name in self.arguments])
        return unpacked([*names, *["*_"] * (len(names) < len(self.arguments))]) if names else ""

    def flags(self, conditions: Iterable[Condition]) -> str:
        """A line that gives the flags in use their names; empty where none is."""
        used = {name for condition in conditions for one in condition.any_of for name in one}
        flags = trimmed([f"needs_{name}" if name in used else "_" for name in self.inputs])
        return f"{', '.join([*flags, '*_'])} = ctx.needs_input_grad" if flags else ""

    def when(self, condition: Condition, value: str) -> str:
        """`value if condition else None`, or the value alone."""
        return value if condition.always else f"{value} if {condition.written(self.own.learned)} else None"

    @cached_property
    def saved(self) -> dict[str, Condition]:
        """What is saved, under its condition."""
        return dict(self.own.saved)

    @property
    def saves(self) -> list[str]:
        """What is given to `save_for_backward`: the maps from layers downstream come first in `rest`."""
        count = len(self.own.families)
        rest = [f"*rest[: {count} * len(shapes)]" if count > 1 else "*rest[: len(shapes)]"] * bool(count)
        return [*(self.when(condition, name) for name, condition in self.saved.items()), *rest]

    @property
    def noted(self) -> list[str]:
        """What the context keeps that is no saved tensor."""
        layer = (LAYER | {"b"}) & self.own.reads or self.shaped or self.rescaled
        batch = ["batch_size"] * ("batch_size" in self.own.reads)
        scalars = [name for name in self.scalars if name in self.own.reads or name == SENDS]
        return [*["layer"] * bool(layer), *batch, *scalars, *self.receivers]

    @property
    def shaped(self) -> list[str]:
        """The inputs whose shape the context keeps, since what arrives as their gradient may be smaller."""
        return [o.target for o in self.own.outputs if o.own and not o.call.full]

    def lacking(self, name: str) -> bool:
        """Whether there are layers without this input."""
        return name != "x" and optional(self.binding.tensor(name))

    # --- backward ---

    @property
    def cotangents(self) -> list[str]:
        """The arguments of backward, after ctx."""
        if not self.own.errors:
            return ["zero"]
        return ["delta", *["e"] * self.own.direct, *["*delta_k"] * self.own.dense]

    @property
    def recalled(self) -> list[str]:
        """Lines that take from the context what it keeps."""
        line = f"{', '.join(self.noted)} = {', '.join(f'ctx.{name}' for name in self.noted)}"
        return [line] if len(line) < LONG else [f"{name} = ctx.{name}" for name in self.noted]

    @property
    def families(self) -> str:
        """What all maps from layers downstream are called together."""
        return self.own.families[0] if len(self.own.families) == 1 else "families" if self.own.families else ""

    @property
    def unpacked(self) -> str:
        """The targets of the saved tensors."""
        return unpacked([*self.saved, *[f"*{self.families}"] * bool(self.families)])

    @property
    def like(self) -> str:
        """A tensor of the kind that is computed."""
        return "delta" if self.own.errors else "zero"

    @property
    def rescales(self) -> list[str]:
        """Lines that make what is a replica's own that of the joint batch."""
        given = {"delta": "joint_errors", "e": "joint_errors", "batch_size": "joint_size"}
        names = [name for name in given if name in self.own.reads and self.rescaled]
        return [f"{name} = {given[name]}(layer, {name})" for name in names]

    @property
    def stores(self) -> list[tuple[str, str]]:
        """(condition or '', line) for what is written to tensors of its own."""
        found = []
        for output in self.own.received:
            how, condition = "copy_" if output.kind == "assign" else "add_", output.call.condition
            conditions = [] if condition.always else [condition.written(self.own.learned)]
            if optional(self.binding.tensor(output.target)):
                conditions.append(f"{output.receiver} is not None")
            found.append((" and ".join(conditions), f"{output.receiver}.{how}({called(output.call)})"))
        return found

    @property
    def returns(self) -> list[str]:
        """What backward returns, for each argument of forward."""
        outputs = {name: self.own.of(name) for name in self.inputs}
        values = [self.when(o.call.condition, self._value(o)) if o else "None" for o in outputs.values()]
        values += ["None"] * (len(self.arguments) - len(values) - self.many)
        values += [f"*(None for _ in {self.families})"] * bool(self.families)
        return values + ["*handed_on(ctx, delta_k)"] * self.own.dense

    def _value(self, output: Output) -> str:
        text = called(output.call)
        text = f"own_errors(layer, {text})" if self.rescaled and output.kind == "send" else text
        return text if output.call.full else f"filled({text}, ctx.{output.target}_shape, {self.like})"

    # --- how a layer calls it ---

    @property
    def application(self) -> str:
        """The arguments that a layer gives."""
        rest = [f'*self.family("{name}", downstream)' for name in self.own.families]
        rest += ["*self.network.arriving(downstream)"] * self.own.dense
        special = {
            **{name: name for name in ("x", "u", "layer")},
            "target": "self.network.target_of(x)",
            "classes": "self.network.classes",
            "backward_passes": "self.backward_passes" if self.own.stored else "self.counter()",
            "shapes": "tuple(downstream.values())",
            "*rest": ", ".join(rest),
            **{name: f'self.network.told("{name}")' for name in COUNTERS},
        }
        return ", ".join(special.get(name, f"self.{attribute(name)}") for name in self.arguments)


@dataclass(frozen=True)
class Holder:
    """What has the tensors of a definition: the layer itself, or a `module` that a constraint was added to.

    constraint   its name, with which the names of its tensors begin there
    """

    binding: Binding
    name: str = "self"
    constraint: str = ""

    @property
    def prefix(self) -> str:
        """Of the tensors' names."""
        return f"{self.constraint}_" if self.constraint else ""

    def held(self, tensor: str) -> str:
        """A tensor, as an attribute."""
        return f"{self.name}.{FORWARD.get(tensor, self.prefix + tensor)}"

    def given(self, name: str, special: Mapping[str, str]) -> str:
        """An argument of a function; `special`: where it is no tensor."""
        own = {"b": f"{self.name}.bias_or_zeros", "phi": f"{self.name}.phi", "dphi": f"{self.name}.dphi"}
        known = {**FROM_LAYER, "layer": "layer", "generator": "generator", **own, **special}
        if name in self.binding.parameters and name not in special:
            return f"self.{name}"
        return known.get(name) or self.held(name)


@dataclass(frozen=True)
class ApartView:
    """A phase with an input of its own, or a stage after a step, as a method."""

    own: Apart
    holder: Holder

    def given(self, name: str) -> str:
        """An argument of a function, as the method has it."""
        network = f"{self.holder.name}.network"
        special = {
            **{name: name for name in ("x", "u", "y", *(call.result for call in self.own.terms))},
            **{name: f'{network}.told("{name}")' for name in COUNTERS},
            "classes": f"{network}.classes",
            "target": f"{network}.target_of(x)",
            "batch_size": "len(x)",
            "shape": f"{self.holder.name}.input_shape",
            "generator": f'named(generator, "x", "{self.own.phase}")',
        }
        return self.holder.given(name, special)

    @property
    def needs_layer(self) -> bool:
        """Whether anything reads the linear map."""
        return bool((LAYER | {"u", "y"}) & self.own.reads)

    @property
    def drive_needs_layer(self) -> bool:
        """Whether drawing x reads the linear map."""
        return self.own.drive is not None and bool(LAYER & {*self.own.drive.arguments})

    @property
    def results(self) -> list[tuple[str, str]]:
        """(condition or '', `Next(...)` or `Gradient(...)`), in order."""
        serving = [output.target in self.own.serves_sending for output in self.own.outputs]
        guarded = not all(serving)  # else there is nothing at all to do in a layer that sends to nobody
        found = []
        for output, serves in zip(self.own.outputs, serving, strict=True):
            value, held = called(output.call, self.given), self.holder.held(output.target)
            conditions = [f"{self.holder.name}.sends"] * (guarded and serves)
            conditions += [f"{held} is not None"] * optional(self.holder.binding.tensor(output.target))
            next_value = output.kind == "assign"
            text = f"Next({held}, {value})" if next_value else f'Gradient({held}, {value}, "{output.optimizer}")'
            found.append((" and ".join(conditions), text))
        return found


@dataclass(frozen=True)
class LayerView:
    """The layer of a rule, or what a constraint adds to one: its tensors, its passes, its phases."""

    holder: Holder
    after: tuple[ApartView, ...]
    passes: tuple[PassView, ...] = ()
    driven: tuple[ApartView, ...] = ()
    joint: bool = False
    standalone: bool = False

    @property
    def binding(self) -> Binding:
        return self.holder.binding

    @property
    def connected(self) -> bool:
        """Whether a layer needs to know of its network."""
        own = self.binding
        apart = own.evoked or own.driven or own.after or own.draws or own.clocked or self.later
        reads = own.reads_out or own.reads_phi
        return bool(apart or reads or self.joint or own.dense or own.others or any(p.received for p in own.passes))

    @property
    def later(self) -> bool:
        """Whether a next value is computed when a pass is over."""
        return any(own.later.outputs for own in self.binding.passes)

    @property
    def teaches(self) -> str:
        """By phase and optimizer, the tensors that have a pseudo-gradient for it."""
        found: dict[tuple[str, str], list[str]] = {}
        for phase, output in self.binding.taught:
            found.setdefault((phase, output.optimizer), []).append(output.receiver or attribute(output.target))
        entries = [f'Taught("{phase}", "{by}", {quoted(names)})' for (phase, by), names in found.items()]
        return f"({', '.join(entries)}{',' if len(entries) == 1 else ''})"

    @property
    def beside(self) -> dict[str, str]:
        """The tensors that hold what a second optimizer is given, and the tensor that it moves."""
        return {o.receiver: attribute(o.target) for _, o in self.binding.taught if o.receiver}

    @property
    def pending(self) -> list[tuple[str, str]]:
        """(tensor, the one that holds its next value until the pass is over)."""
        outputs = [o for own in self.binding.passes for o in own.stored]
        return list(dict.fromkeys((attribute(o.target), o.receiver or "") for o in outputs))

    def arrived(self, view: PassView) -> str:
        """The next values that the backward pass of a phase leaves, for `end_pass`."""
        names = [f'{attribute(o.target)}="{o.receiver}"' for o in view.own.stored]
        return f"*self.arrived({', '.join(names)})" if names else ""

    def ends(self, view: PassView) -> ApartView:
        """What is computed when a pass is over, as a method shows it."""
        return ApartView(view.own.later, self.holder)

    @property
    def own_decay(self) -> list[str]:
        """The tensors whose rule decays them itself."""
        return [attribute(t.name) for t in self.binding.tensors if t.own_decay]

    @property
    def base(self) -> str:
        """The class that has what the layers of all rules have; more where an optimizer's step has to know of them."""
        own = self.binding
        phased = own.others or own.evoked or own.driven
        if self.standalone:
            return ", ".join(["PhasedLayer"] * bool(phased) + ["OnceLayer"] * bool(own.once)) or "PlainLayer"
        return "StepLayer" if own.once or phased else "RuleLayer"

    @property
    def whole(self) -> bool:
        """Whether the forward pass of a whole network has to know of its layers' errors."""
        return bool(self.binding.direct or self.binding.dense or self.binding.evoked)

    @property
    def routed(self) -> bool:
        """Whether a network needs an optimizer beside that of the task, or one in a phase without a pass."""
        own = self.binding
        return bool(own.others or any(o.kind == "grad" for each in own.driven for o in each.outputs))

    @property
    def once(self) -> list[str]:
        """What counts once a step, tensor by tensor."""
        special = {name: f"self.linear_map().{name}" for name in FROM_LAYER} | {"layer": "self.linear_map()"}
        special |= {"classes": "self.network.classes"} | {name: f'self.network.told("{name}")' for name in COUNTERS}
        found = []
        for once in self.binding.once:
            given = partial(self.holder.given, special={**special, once.summed: once.summed})
            text = f'Once("{attribute(once.target)}", lambda self, {once.summed}: {called(once.call, given)}'
            where = [] if (once.phase, once.optimizer) == (TASK, TASK) else [f'"{once.phase}"', f'"{once.optimizer}"']
            where += ["to_send=True"] * (once.target in self.binding.serves_sending and not self.standalone)
            found.append(", ".join([text, *where]) + ")")
        return found

    @property
    def counts(self) -> bool:
        """Whether backward passes are counted since what they bring does not add up."""
        return bool(self.binding.batched)

    @property
    def told(self) -> str:
        """What has to be told before a step."""
        known = {"target": "target=labels", "epoch": "epoch=epoch", "progress": "progress=progress", "lr": "lr=lr"}
        return ", ".join(text for name, text in known.items() if name in self.binding.reads)

    @property
    def contents(self) -> str:
        """The tensors that it makes, in words."""
        names = ", ".join(tensor.name for tensor, _ in self.binding.starts)
        return (names if len(names) < 60 else f"{len(self.binding.starts)} tensors") or "room for next values"

    optional = staticmethod(optional)

    # --- first values ---

    @property
    def needs_layer_to_start(self) -> bool:
        """Whether making the tensors reads the linear map."""
        shapes = [self.shape(tensor) for tensor, _ in self.binding.starts]
        return bool(LAYER & self.binding.start_reads) or any("layer." in shape for shape in shapes)

    @property
    def needs_layer_to_draw(self) -> bool:
        """Whether drawing anew reads the linear map."""
        return bool(LAYER & self.binding.draw_reads)

    def shape(self, tensor: Tensor) -> str:
        """The shape of a tensor."""
        spaces = ", ".join(f'"{space}"' for space in tensor.space)
        return shape_of(tensor, "(*source, *self.input_shape[1:])", f"{self.holder.name}.shape_of({spaces})")

    @staticmethod
    def each_downstream(call: Call) -> str:
        """`source in enumerate(self.downstream.values()`, with the paths of those layers where a draw is called so."""
        named = "generator" in call.arguments
        return (
            f"{'(path, source)' if named else 'source'} in enumerate(self.downstream.{'items' if named else 'values'}()"
        )

    def start(self, tensor: Tensor, call: Call) -> str:
        """`init_B(shape, ...)`"""
        names = [f'"{tensor.stream}"', *["path"] * (tensor.name in self.binding.families)]
        names += [f'"{self.holder.constraint}"'] * bool(self.holder.constraint)
        special = {
            "generator": f"named(generator, {', '.join(names)})",
            "shape": "shape",
            "sources": "math.prod(source)" if tensor.name in self.binding.families else "shape[0]",
            "targets": "math.prod(shape[1:])",
            "classes": f"{self.holder.name}.classes",
            **dict.fromkeys(COUNTERS, "0.0"),
        }
        return called(call, lambda name: self.holder.given(name, special))


# --- what the templates are given ---


PASTED = frozenset(
    """
    Any Callable ClassVar Convolution Dense Factory Iterable Iterator Literal Mapping Meetings MutableMapping
    NamedTuple NetworkState Once OnceLayer Optimizers PhasedLayer PlainLayer Plan Real Running Self Sequence Shape
    StepLayer Tensor ThreadPoolExecutor Trace Traced Unconnected UserError WeakIdKeyDictionary WeakKeyDictionary
    WeakSet
    """.split()  # noqa: SIM905
)
"""What else stands in a standalone module under a name that a class of the rule could have. A test compares."""


def shown(module: Module) -> dict[str, object]:
    """Everything that the templates of this backend print, beside the functions."""
    binding, names, camel = module.binding, module.names, camel_case(module.rule) or "Rule"
    common: dict[str, object] = {"module": module, "binding": binding, "layer": None}
    if module.kind == "optimizer":
        return common | {"optimizer": optimizer_view(module)}
    if module.kind == "constraint":
        holder = Holder(binding, "module", module.rule)
        after = tuple(ApartView(own, holder) for own in binding.after)
        name = names.give("class of the constraint", camel, avoid=PASTED)
        return common | {"constraint": LayerView(holder, after), "name": name, "methods": _enforcing(binding, names)}
    if binding.task is None:
        return common
    holder = Holder(binding)
    classes = {TASK: names.give("class of the task", camel, avoid=PASTED)}
    for evoked in binding.evoked:
        wish = camel + camel_case(evoked.phase)
        classes[evoked.phase] = names.give(f"class of {evoked.phase}", wish, avoid=PASTED)
    wishes = {phase: phase for phase in classes if phase != TASK} | {own.phase: own.phase for own in binding.driven}
    wishes |= {f"draw {own.phase}": f"draw_{own.phase}" for own in binding.driven}
    methods = {key: names.give(f"method {key}", wish, avoid=ATTRIBUTES) for key, wish in wishes.items()}
    layer = LayerView(
        holder,
        tuple(ApartView(own, holder) for own in binding.after),
        tuple(PassView(own, classes[own.phase], binding, own.phase in module.rescaled) for own in binding.passes),
        tuple(ApartView(own, holder) for own in binding.driven),
        bool(module.joint or module.unlike),
        module.standalone,
    )
    # A file that needs torch alone brings along what torch has itself.
    known = {by: each for by, each in module.optimizers.items() if not module.standalone or each[0] in OWN}
    return common | {
        "layer": layer,
        "methods": methods | _enforcing(binding, names),
        "name": names.give("class of the layer", f"{camel}Layer", avoid=PASTED),
        "schedule": scheduled(module.schedule),
        "optimizers": brought(known) if known else "",
        "unknown": {by: chosen for by, chosen in module.optimizers.items() if by not in known},
    }


def _enforcing(binding: Binding, names: Names) -> dict[str, str]:
    """The methods of what happens after a step."""
    stages = binding.after
    wishes = ["enforce"] if len(stages) == 1 else [f"enforce_{index + 1}" for index, _ in enumerate(stages)]
    return {own.phase: names.give(f"method {own.phase}", wish) for own, wish in zip(stages, wishes, strict=True)}


OWN = {
    "adam": ("torch.optim.Adam", {"epsilon": "eps"}, ", fused=True"),
    "sgd": ("torch.optim.SGD", {}, ""),
}
"""Optimizers of the library that torch has itself, and faster: their class, its names for parameters, and options."""


def brought(optimizers: Mapping[str, tuple[str, Mapping[str, float | bool]]]) -> str:
    """The optimizers that a rule brings along, each as a function of parameters."""
    factories = [f'("{by}", {_factory(*chosen)})' for by, chosen in optimizers.items()]
    return f"({', '.join(factories)},)"


def _factory(name: str, parameters: Mapping[str, float | bool]) -> str:
    kind, names, options = OWN.get(name, ("optimizer", {}, ""))
    given = dict(parameters)
    if kind == "torch.optim.SGD" and not given.get("momentum"):
        given.pop("nesterov", None)  # of no momentum there is none, and torch refuses it
    texts = [] if name in OWN else [f'rule="{name}"']
    if kind == "torch.optim.Adam" and {"beta1", "beta2"} & given.keys():
        betas = (given.pop("beta1", 0.9), given.pop("beta2", 0.999))
        given_betas = [f"betas=({constant(betas[0])}, {constant(betas[1])})"]
    else:
        given_betas = []
    texts += [f"{names.get(key, key)}={constant(value)}" for key, value in given.items()] + given_betas
    return f"partial({', '.join([kind, *texts])}{options})"
