"""Any Flax NNX module, its weight layers turned in place into layers that follow a rule: survey, assemble, install."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from ruledsl.assembly import (
    Assembly,
    Facts,
    Part,
    RuleLike,
    Trace,
    assemble,
    check_elementwise,
    compiled,
    experiment_of,
    unsuitable,
)
from ruledsl.choices import Choice, Choices, compiled_choices, follow, left_alone, several
from ruledsl.errors import RuleWarning, UserError, suggest
from ruledsl.listing import LEFT_ALONE, assigned, by, taught, unlike
from ruledsl.locality.experiment import of_network
from ruledsl.program import TASK, Schedule
from ruledsl.streams import Streams
from ruledsl_jax.guided import guided
from ruledsl_jax.host import host_streams
from ruledsl_jax.layers import Activation
from ruledsl_jax.modules import KINDS, Following, RuleLayer
from ruledsl_jax.record import Record
from ruledsl_jax.taught import Taught, call
from ruledsl_jax.tracing import modules_of, trace

Net = TypeVar("Net", bound=nnx.Module)
PADDINGS = ("SAME", "SAME_LOWER", "VALID")
WORDS = "Linear, LinearGeneral, Conv, ConvTranspose or Embed"
OPTIONS = ("rules", "output", "constraints", "example", "activations", "seed")


def convert(
    net: Net,
    rule: RuleLike | None = None,
    *,
    rules: Mapping[str, Choice] | None = None,
    output: RuleLike | None = None,
    constraints: RuleLike | Sequence[RuleLike] = (),
    example: Any = None,
    activations: Mapping[str, Activation | str] | None = None,
    seed: int = 0,
    **parameters: float,
) -> Net:
    """Let the weight layers of a network learn by a rule. Returns `net`, changed in place.

    Weight layers are `nnx.Linear`, `LinearGeneral` (the projections of attention), `Conv`, `ConvTranspose`, and `Embed`
    where the rule allows it.

    rule         a name of the library, a path, `ruledsl.load(...)`, or a compiled Program
    rules        by a pattern of the layers' names (`"conv*"`, as in fnmatch; `*` also stands for dots), a rule, a rule
                 with parameters `("kolen_pollack", {"decay": 0.01})`, or None, which leaves the layer as it is. The
                 first pattern that fits counts; `rule` is for layers that none fits
    output       another rule for the weight layer that runs last (without an example: that was made last)
    constraints  what holds after every step, in addition to what the rule says, and in this order
    example      an input batch, traced through the network in evaluation mode: it tells in which order layers run, the
                 shapes of activities, and the number of classes (otherwise `out_features` of the last Linear). Phases
                 with `drive` draw inputs of its shape: give it the size of the batches
    activations  by the layer's name, its activation (or the name of one in jax.nn): rules call it `phi`
    seed         what the random values of the rule's tensors follow from, each by its layer and its name; first values
                 are those of every backend
    parameters   values for the parameters of `rule`

    Weights and biases stay the same variables under the same names, and pseudo-gradients arrive through `nnx.grad`.
    What the rule adds stands beside them (`net.fc1.B`). `net.ruledsl` lists the layers, and what was skipped, of which
    there is a warning too. `unconvert` is the way back.
    Raises UserError, before anything has changed, where network and rule do not fit.
    """
    _check_call(net, (rule, output, *(rules.values() if isinstance(rules, Mapping) else ())), seed, parameters)
    chosen = compiled_choices("jax", rule, rules, output, parameters)
    added = [compiled(each, "jax", {}) for each in several(constraints)]
    layers, skipped = _survey(net)
    traced = Trace() if example is None else trace(net, example)
    last = [] if chosen.output is None else [*(traced.layers or layers)][-1:]
    followed = follow(layers, chosen, last, skipped)
    skipped |= dict.fromkeys(left_alone(skipped, chosen), LEFT_ALONE)
    facts = {name: _facts(layer) for name, layer in layers.items()}
    parts = _able(facts, followed, skipped)
    phis = _activations(layers, activations or {})
    assembly = assemble(facts, traced, parts, added, phis, "jax.nn.relu")
    prepared = _prepared(layers, traced, assembly, int(seed))
    for name, (following, made) in prepared.items():
        # The object stays the same, so that whoever holds it holds the converted layer.
        layer = layers[name]
        layer.__class__ = KINDS[type(layer)]
        layer.follow(following, made)
    if _shares_passes(assembly):
        net.__class__ = guided(type(net))
    record = _record(chosen, layers, traced, assembly, skipped, _of_network(net))
    net.ruledsl = record.begun()  # type: ignore[attr-defined]
    for message, help in _remarks(parts, skipped):
        warnings.warn(f"{message}\n  help: {help}", RuleWarning, stacklevel=2)
    return net


def _shares_passes(assembly: Assembly) -> bool:
    """Whether layers hand something on beside the activity, or have to know which phase a pass is of."""
    bindings = [place.part.binding for place in assembly.places.values()]
    return any(binding.direct or binding.dense or binding.evoked for binding in bindings)


def _prepared(
    layers: Mapping[str, Any], traced: Trace, assembly: Assembly, seed: int
) -> dict[str, tuple[Following, dict[str, Any]]]:
    """What the layers follow, and the tensors that rules and constraints add, by the names that layers give them."""
    sizes = {name: place.input_shape for name, place in assembly.places.items()}
    kinds = {name: KINDS[type(layers[name])] for name in sizes}
    within = {name: shape and kinds[name].size_of(layers[name], shape) for name, shape in sizes.items()}
    maps = {name: kinds[name].map_for(layers[name], size) for name, size in within.items()}
    found = {}
    for name, place in assembly.places.items():
        met, shape = traced.layers.get(name), sizes[name]
        if met is not None and met.visits > 1 and any(t.own_decay for t in place.part.program.tensors):
            raise UserError(
                f"{place.part.rule} has a decay, which counts once a step, and {name} runs {met.visits} times in it",
                f"rules={{{name!r}: None}} leaves it alone",
            )
        own = Taught.at(name, place, maps, assembly.classes, met.sends if met else True)
        batch = None if shape is None else int(shape[0])
        following = Following(place.part, own, assembly.constraints, (seed, name), within[name], batch)
        found[name] = following, _first(layers[name], following, Streams(seed, name))
    return found


def _first(layer: Any, following: Following, source: Streams) -> dict[str, Any]:
    """First values of what is added to a layer."""
    taught, kind, part = following.taught, KINDS[type(layer)], following.part
    bias = getattr(layer, "bias", None)
    W = kind.flat(layer, "W", getattr(layer, kind.weights).get_value())
    b = None if bias is None else kind.flat(layer, "b", bias.get_value())
    key = host_streams(source, part.program, taught.linear, taught.downstream)
    params, state = taught.first(key, W, b, part.parameters)
    made = {name: value for name, value in (params._asdict() | state._asdict()).items() if name not in ("W", "b")}
    for one in following.constraints:
        known = {"layer": taught.linear, "params": params, "phi": taught.phi, **one.parameters}
        kept = call(one.program.module.init, known | {"key": host_streams(source, one.program, taught.linear)})
        made |= {f"{one.rule}_{name}": value for name, value in kept._asdict().items()}
    return {name: jax.tree.map(jnp.asarray, value) for name, value in made.items()}


# --- refusals ---


def _check_call(net: Any, rules: Sequence[Any], seed: Any, parameters: Mapping[str, Any]) -> None:
    """Raises UserError for what is no network, for layers in the place of rules, and for unknown arguments."""
    name = getattr(net, "__name__", type(net).__name__)
    if isinstance(net, type):
        raise UserError(f"{name} is a class, and convert changes a network", f"convert({name}(...), rule)")
    if not isinstance(net, nnx.Module):
        raise UserError(
            f"convert changes an nnx.Module, and {name} is none",
            "networks that are functions use the rule itself: ruledsl_jax.layer(rule, linear)",
        )
    for rule in rules:
        if isinstance(rule, nnx.Module):
            raise UserError(
                f"a rule was expected, and not the layer {type(rule).__name__}",
                'layers are named: convert(net, rule, rules={"fc3": "backprop"})',
            )
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise UserError(f"seed is {seed!r}, which is no whole number", "convert(..., seed=0)")
    for name, value in parameters.items():
        if isinstance(value, Array):
            raise UserError(f"{name} is an array, and parameters of a rule are numbers", f"{name}=float({name})")
        if not isinstance(value, Real):
            raise UserError(f"convert has no argument `{name}`", suggest(name, OPTIONS))


# --- survey ---


def _survey(net: nnx.Module) -> tuple[dict[str, Any], dict[str, str]]:
    """The layers to convert by name, and the reasons why others with weights are not among them."""
    layers: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name, module in modules_of(net, (), set()):
        if isinstance(module, RuleLayer):
            raise UserError(
                f"{name or 'the network'} already follows {module.following.part.rule}: convert it only once",
                "unconvert what was converted first; rules={...} gives the parts of one network rules of their own",
            )
        why = _obstacle(module)
        if why:
            skipped[name] = why
        elif type(module) in KINDS:
            layers[name] = module
    if not layers:
        listed = "; ".join(f"{name or 'the network itself'}: {why}" for name, why in skipped.items())
        raise UserError(f"{type(net).__name__} has no {WORDS} to convert", listed or None)
    return layers, skipped


def _obstacle(module: Any) -> str | None:
    """Why a module with a weight of two or more axes can't follow a rule; None for others."""
    own = [value for value in vars(module).values() if isinstance(value, nnx.Param)]
    if all(getattr(parameter.get_value(), "ndim", 0) < 2 for parameter in own):
        return None
    kind = type(module)
    if kind not in KINDS:
        known = isinstance(module, tuple(KINDS))
        return f"{kind.__name__} {'computes something of its own' if known else f'is no {WORDS}'}"
    if kind is nnx.Embed:
        return _stacked(module.embedding, 2)
    if module.precision is not None or module.preferred_element_type is not None:
        return "it sets precision or preferred_element_type"
    if kind is nnx.Linear:
        return _stacked(module.kernel, 2) or _own_product(module)
    if kind is nnx.LinearGeneral:
        if module.batch_axis:
            return "it has a weight for every entry of a batch axis"
        return _stacked(module.kernel, len(module.in_features) + len(module.out_features)) or _own_product(module)
    if module.mask is not None or getattr(module, "conv_general_dilated", lax.conv_general_dilated) is not (
        lax.conv_general_dilated
    ):
        return "it has a mask or a convolution of its own"
    if getattr(module, "transpose_kernel", False):
        return "transpose_kernel"
    if isinstance(module.padding, str) and module.padding not in PADDINGS[:: 2 if kind is nnx.ConvTranspose else 1]:
        return f"padding={module.padding!r}"
    return _stacked(module.kernel, len(module.kernel_size) + 2)


def _own_product(module: Any) -> str | None:
    own = module.dot_general not in (None, lax.dot_general) or getattr(module, "dot_general_cls", None) is not None
    return "it has a dot_general of its own" if own else None


def _stacked(weights: Any, axes: int) -> str | None:
    shape = weights.get_value().shape
    if len(shape) == axes:
        return None
    return f"it is a stack of {shape[0]} layers: convert each of them before it is stacked"


def _facts(layer: Any) -> Facts:
    kind = KINDS[type(layer)]
    taken = frozenset({*dir(layer), *dir(RuleLayer), *RuleLayer.__annotations__})
    dense, indices = isinstance(layer, nnx.Linear | nnx.LinearGeneral), isinstance(layer, nnx.Embed)
    return Facts(type(layer).__name__, dense, kind.map_for(layer).units_out, indices, taken)


def _able(facts: Mapping[str, Facts], followed: Mapping[str, Part | None], skipped: dict[str, str]) -> dict[str, Part]:
    """The rules of those layers that can follow theirs; of others, the reason goes to `skipped`."""
    parts: dict[str, Part] = {}
    for name, part in followed.items():
        why = LEFT_ALONE if part is None else unsuitable(facts[name], part)
        if why:
            skipped[name] = why
        elif part is not None:
            parts[name] = part
    if not parts:
        listed = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise UserError(f"no layer can follow its rule: {listed}")
    return parts


def _activations(layers: Mapping[str, Any], given: Mapping[str, Activation | str]) -> dict[str, Activation | None]:
    if not isinstance(given, Mapping):
        raise UserError(
            f"activations is {type(given).__name__}, where activations by the names of layers were expected",
            f"activations={{{next(iter(layers))!r}: jax.nn.relu}}",
        )
    for name in given:
        if name not in layers:
            raise UserError(f"activations names {name!r}, which is no converted layer", suggest(str(name), layers))
    found: dict[str, Activation | None] = {}
    for name in layers:
        chosen: Any = given.get(name)
        if isinstance(chosen, str):
            chosen = getattr(jax.nn, chosen, None)
            if not callable(chosen):
                raise UserError(f"jax.nn has no activation {given[name]!r}")
        if name in given and not callable(chosen):
            raise UserError(
                f"the activation of {name} is {chosen!r}, which is no function of an array",
                "give jax.nn.relu or the name of a function of jax.nn",
            )
        if name in given:
            check_elementwise(name, chosen, jnp.asarray)
        found[name] = chosen
    return found


# --- what is said ---


def _record(
    chosen: Choices,
    layers: Mapping[str, Any],
    traced: Trace,
    assembly: Assembly,
    skipped: Mapping[str, str],
    network: tuple[str, ...],
) -> Record:
    """Of a network whose layers have taken up their rules."""
    places = assembly.places
    parts = {name: place.part for name, place in places.items()}
    names = list(dict.fromkeys(part.rule for part in parts.values()))
    title = chosen.rule.rule if chosen.rule and chosen.rule.rule in names else ", ".join(names)
    first = sorted(parts.values(), key=lambda part: part.rule != title)
    schedule = next((part.program.schedule for part in first if part.program.schedule != Schedule()), Schedule())
    bindings = [part.binding for part in parts.values()]
    errors = {own.phase for binding in bindings for own in binding.evoked if own.errors}
    driven = {own.phase for binding in bindings for own in binding.driven}
    rows = tuple(_row(name, layers[name], part, traced) for name, part in parts.items())
    learners = {**dict.fromkeys(skipped), **parts}
    experiment = experiment_of(learners, traced, chosen.output, assembly.constraints, network)
    notes = (*experiment.lines(), *_notes(parts, assembly.constraints))
    left = tuple(skipped.items())
    phases = tuple(sorted(errors)), tuple(sorted(driven))
    return Record(title, tuple(places), left, assembly.classes, schedule, *phases, rows, notes)


def _of_network(net: nnx.Module) -> tuple[str, ...]:
    """What a network adds to the ledger by itself."""
    modules = [module for _, module in modules_of(net, (), set())]
    norms = any(isinstance(module, nnx.BatchNorm) for module in modules)
    return of_network(norms, any(isinstance(module, nnx.Conv | nnx.ConvTranspose) for module in modules))


def _row(name: str, layer: Any, part: Part, traced: Trace) -> tuple[str, ...]:
    met = traced.layers.get(name)
    last = next(reversed(traced.layers), None)
    role = " and ".join(["first"] * (met is not None and not met.sends) + ["output"] * (name == last)) or "hidden"
    values = ", ".join(f"{key} = {value:g}" for key, value in part.parameters.items())
    absent = frozenset(() if getattr(layer, "bias", None) is not None else ("b",))
    learns = [f"{each.target}{by(each)}" for each in taught(part.binding, absent)] + [*assigned(part.binding, absent)]
    kind = type(layer).__name__.removeprefix("Rule")
    kind = "LinearGeneral" if kind == "General" else kind
    return name, kind, part.rule, role if met else "?", values, ", ".join(learns)


def _notes(parts: Mapping[str, Part], constraints: Sequence[Part]) -> Iterator[str]:
    rules = {part.rule: part for part in parts.values()}
    if constraints:
        yield f"after every step: {', '.join(part.rule for part in constraints)}"
    others = dict.fromkeys(o.optimizer for part in rules.values() for _, o in part.binding.taught)
    others.pop(TASK, None)
    if others:
        yield f"optimizers: task, {', '.join(others)}, which ruledsl_jax.optimizers(net, task=...) makes"
    why = {rule: unlike(part.binding.unscaled, part.binding.batched) for rule, part in rules.items()}
    yield from (f"{rule} is not linear in the errors: {text}" for rule, text in why.items() if text)
    linear = [rule for rule, text in why.items() if not text]
    if linear:
        yield f"linear in the errors, over micro-batches, replicas and scaled losses: {', '.join(linear)}"


def _remarks(parts: Mapping[str, Part], skipped: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What learns in another way than a reader of the call would think, and what mends it."""
    unable = {name: why for name, why in skipped.items() if why != LEFT_ALONE}
    if unable:
        listed = "; ".join(f"{name or 'the network itself'}: {why}" for name, why in unable.items())
        yield (
            f"not converted: {listed}. They learn by jax.grad from the errors that reach them: below a converted layer "
            "these are what its rule sends, and no exact gradient",
            f"rules={{{next(iter(unable))!r}: None}} says that this is meant",
        )
    for rule, part in {part.rule: part for part in parts.values()}.items():
        why = unlike(part.binding.unscaled, part.binding.batched)
        if why:
            yield (
                f"{rule} does not follow the scale of the loss: {why}",
                "the gradient once per step, of the mean over the batch, and no loss scaling",
            )
