"""Any network, its weight layers turned in place into layers that follow a rule: survey, assemble, install."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakSet, ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from ruledsl.assembly import (
    Assembly,
    Facts,
    Part,
    Place,
    RuleLike,
    Trace,
    assemble,
    check_elementwise,
    compiled,
    experiment_of,
    unsuitable,
)
from ruledsl.choices import Choice, Choices, compiled_choices, follow, left_alone, output_layers, several
from ruledsl.errors import UserError, suggest
from ruledsl.listing import LEFT_ALONE
from ruledsl.locality.experiment import of_network
from ruledsl_torch import transformations as transformations  # says what layers can't be part of
from ruledsl_torch.attending import leave
from ruledsl_torch.composites import COMPOSITES, is_closed, is_open, opened
from ruledsl_torch.connecting import constraint_class, followers, layer_class, moved
from ruledsl_torch.directed import directed
from ruledsl_torch.hooks import forget
from ruledsl_torch.layers import DECLARED, RuleLayer, check_moves, quiet
from ruledsl_torch.linear import KINDS, kind_of, recognised, symmetric_padding
from ruledsl_torch.logits import Logits, Where
from ruledsl_torch.network import connect
from ruledsl_torch.randomness import Seeded
from ruledsl_torch.record import Added, Record, unlike_in
from ruledsl_torch.refusals import check_call, check_layer, check_randomness, check_ready, check_weights
from ruledsl_torch.replicas import keep_in_step
from ruledsl_torch.sharing import warn_of_shared_weights
from ruledsl_torch.speaking import warn_once
from ruledsl_torch.tracing import Look, trace

Net = TypeVar("Net", bound=nn.Module)
Phi = Any  # an elementwise function of a tensor
Example = Tensor | tuple[Any, ...] | Mapping[str, Any]


def convert(
    net: Net,
    rule: RuleLike | None = None,
    *,
    rules: Mapping[str, Choice] | None = None,
    output: RuleLike | None = None,
    constraints: RuleLike | Sequence[RuleLike] = (),
    example: Example | None = None,
    logits: Where | None = None,
    activations: Mapping[str, Phi | str] | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    **parameters: float,
) -> Net:
    """Let the weight layers of a network learn by a rule. Returns `net`, changed in place.

    Weight layers are Linear, Conv1d to Conv3d, ConvTranspose1d to 3d, Hugging Face's Conv1D, the four projections of an
    nn.MultiheadAttention (`net.attn.q_proj`, `k_proj`, `v_proj`, `out_proj`: layers whose weights stay where they are),
    and Embedding where the rule allows it.

    rule         a name of the library, a path, `ruledsl.load(...)`, or a compiled Program
    rules        by a pattern of the layers' names (`"conv*"`, as in fnmatch; `*` also stands for dots), a rule, a rule
                 with parameters `("kolen_pollack", {"decay": 0.01})`, or None, which leaves the layer as it is. The
                 first pattern that fits counts; `rule` is for layers that none fits
    output       the rule of the layers from which the network's output is reached without another weight layer
                 between, in the network's own mode; it stands before all patterns
    constraints  what holds after every step, in addition to what the rule says, and in this order
    example      an input batch; a tuple of positional inputs, or a mapping of inputs by keyword. Traced through the
                 network, it tells in which order layers run, which are at the output, the shapes of activities, and
                 the number of classes (otherwise `out_features` of the last Linear). Phases with `drive` draw inputs of
                 its shape: give it the size of the batches
    logits       where rules that read `e` or `target` find the logits, where these are not the network's output: a key,
                 index or attribute of it ("logits", 0, "outputs.logits"), a function of it that returns one of its
                 tensors, or a module of the network, whose output they are whatever happens to it afterwards. They are
                 [batch, classes], or, if `example` shows it, [batch, *positions, classes]
    activations  by the layer's name, its activation (or the name of one in torch.nn.functional): rules call it `phi`
    seed         what the random values of the rule's tensors follow from, each by its layer and its name, whatever else
                 is drawn in the process; first values are those of every backend
    generator    in its place, where they come from; without either it is torch's own generator
    parameters   values for the parameters of `rule`

    Weights and biases stay the same Parameter objects under the same names. What the rule adds stands beside them
    (`net.fc1.B`; of maps from the layers downstream `net.fc1.D_0`, `D_1`, in the order in which these layers run; of a
    constraint `net.fc1.constant_norm_n`). Where a weight is computed from other parameters (torch.nn.utils.parametrize,
    pruning), the rule reads the weight, and its pseudo-gradient goes on to these. `net.ruledsl` lists the layers, and
    what was `skipped`, of which there is a warning too. `unconvert` is the way back.
    Raises UserError, before anything has changed, where the network and the rule do not fit.
    """
    check_call(net, (rule, output, *(rules.values() if isinstance(rules, Mapping) else ())), parameters)
    check_randomness(seed, generator)
    chosen = compiled_choices("torch", rule, rules, output, parameters)
    added = [compiled(each, "torch", {}) for each in several(constraints)]
    with opened(net):
        layers, skipped = survey(net)
        phis = _activations(layers, activations or {})
        place = Logits(net, logits)
        with place.watching(net, layers):
            traced = _traced(net, layers, skipped, example, place.look)
        places = () if chosen.output is None else output_layers(traced, list(layers), skipped)
        followed = follow(layers, chosen, places, skipped)
        skipped |= dict.fromkeys(left_alone(skipped, chosen), LEFT_ALONE)
        facts = {name: _facts(layer) for name, layer in layers.items()}
        parts = _able(layers, facts, followed, skipped)
        assembly = assemble(facts, traced, parts, added, phis, "torch.relu")
        place.fit(assembly.places, layers)
        network = Record(_title(chosen, parts), {}, assembly.classes, generator)
        network.draws = None if seed is None else Seeded(int(seed))
        network.skipped, network.roles = skipped, _roles(traced)
        learners = {**dict.fromkeys(skipped), **parts}
        network.experiment = experiment_of(learners, traced, chosen.output, assembly.constraints, _of_network(net))
        install(net, network, layers, assembly, place)
    warn_of_shared_weights(net, weight_layers(net))
    for key, message, help in _remarks(network, traced, chosen):
        warn_once(network, key, message, help)
    return net


def _of_network(net: nn.Module) -> tuple[str, ...]:
    """What a network adds to the ledger by itself."""
    modules = list(net.modules())
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)
    return of_network(norms, any(isinstance(module, nn.modules.conv._ConvNd) for module in modules))


def _activations(layers: Mapping[str, nn.Module], given: Mapping[str, Phi | str]) -> dict[str, Phi | None]:
    if not isinstance(given, Mapping):
        raise UserError(
            f"activations is {type(given).__name__}, where activations by the names of layers were expected",
            f"activations={{{next(iter(layers))!r}: torch.relu}}",
        )
    for name in given:
        if name not in layers:
            raise UserError(f"activations names {name!r}, which is no converted layer", suggest(str(name), layers))
    found: dict[str, Phi | None] = {}
    for name, layer in layers.items():
        chosen = given.get(name, getattr(layer, "phi", None))
        if isinstance(chosen, str):
            named = _identity if chosen == "identity" else getattr(F, chosen, None) or getattr(torch, chosen, None)
            if not callable(named):
                raise UserError(f"torch.nn.functional has no activation {chosen!r}")
            chosen = named
        if name in given and (not callable(chosen) or isinstance(chosen, type)):
            raise UserError(
                f"the activation of {name} is {chosen!r}, which is no function of a tensor",
                "give torch.relu, nn.ReLU() or the name of a function of torch.nn.functional",
            )
        if name in given:
            with torch.no_grad():
                check_elementwise(name, chosen, torch.tensor)
        found[name] = chosen
    return found


def _identity(v: Tensor) -> Tensor:
    return v


# --- survey ---


def survey(net: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The layers to convert by name, and the reasons why others with weights are not among them."""
    layers: dict[str, nn.Module] = {}
    skipped: dict[str, str] = {}
    inside: tuple[str, ...] = ()  # below these, weights are read without a call of their layer
    for name, module in net.named_modules():
        if "parametrizations" in name.split("."):
            continue  # part of the layer whose weight it computes
        if isinstance(module, RuleLayer):
            raise UserError(
                f"{name or 'the network'} already follows {module.rule}: convert it only once",
                "unconvert what was converted first; rules={...} gives the parts of one network rules of their own",
            )
        if hasattr(module, "_orig_mod"):
            raise UserError("the network is compiled already", "convert first: torch.compile(convert(net, rule))")
        why = None if name.startswith(inside) else _obstacle(module)
        if is_closed(module):
            inside += (f"{name}." if name else "",)
        if why:
            skipped[name] = why
        elif name.startswith(inside):
            continue
        elif recognised(kind_of(module)):
            layers[name] = module
    if not layers:
        listed = "; ".join(f"{name or 'the network itself'}: {why}" for name, why in skipped.items())
        raise UserError(f"{type(net).__name__} has no Linear, convolution or Embedding to convert", listed or None)
    if "forward" in net.__dict__:
        raise UserError(f"{type(net).__name__} has a forward of its own, set on the object", "set it on the class")
    return layers, skipped


def _obstacle(module: nn.Module) -> str | None:
    """Why a module with a weight of two or more axes can't follow any rule; None for others."""
    own = list(module.parameters(recurse=is_parametrized(module)))
    name = type(module).__name__
    if any(isinstance(parameter, nn.UninitializedParameter) for parameter in own):
        return f"{name} has no weights before its first batch"
    if is_closed(module):
        own_forward = "has a forward of its own, set on the object"
        return f"{name} {own_forward if type(module) in COMPOSITES else 'computes something of its own'}"
    if is_open(module) or all(parameter.dim() < 2 for parameter in own):
        return None
    if not recognised(kind_of(module)):
        known = isinstance(module, tuple(KINDS))
        return f"{name} computes something of its own" if known else f"{name} is no Linear, convolution or Embedding"
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.padding_mode != "zeros":
            return f"padding_mode={module.padding_mode!r}"
        return None if symmetric_padding(module) else "padding='same' pads the two sides differently"
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq or module.sparse):
        return "max_norm, scale_grad_by_freq and sparse are no part of a rule"
    return None


def _facts(layer: Any) -> Facts:
    linear_map, axes = KINDS[kind_of(layer)]
    indices = isinstance(layer, nn.Embedding)
    taken = {*dir(layer), *DECLARED}
    return Facts(kind_of(layer).__name__, axes == 1, linear_map(layer).units_out, indices, frozenset(taken))


def _able(
    layers: Mapping[str, nn.Module],
    facts: Mapping[str, Facts],
    followed: Mapping[str, Part | None],
    skipped: dict[str, str],
) -> dict[str, Part]:
    """The rules of those layers that can follow theirs; of others, the reason goes to `skipped`."""
    parts: dict[str, Part] = {}
    for name, part in followed.items():
        why = LEFT_ALONE if part is None else unsuitable(facts[name], part)
        if why:
            skipped[name] = why
        elif part is not None:
            check_layer(name, layers[name])
            parts[name] = part
    if not parts:
        listed = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise UserError(f"no layer can follow its rule: {listed}")
    return parts


def _traced(
    net: nn.Module,
    layers: Mapping[str, nn.Module],
    skipped: Mapping[str, str],
    example: Example | None,
    look: Look,
) -> Trace:
    """What an example shows; without one, what a chain of layers shows of itself."""
    check_weights(layers)
    names = {module: name for name, module in net.named_modules()}
    if example is not None:
        check_ready(net)
        others = {name: net.get_submodule(name) for name in skipped}
        for name, other in list(others.items()):
            if any(module in names and names[module] in layers for module in other.modules()):
                del others[name]  # what comes out of it comes out of the layers in it
        with torch.inference_mode(False):
            return trace(net, layers, example, others, look)
    if len(layers) == 1 and not skipped:
        return Trace(outputs=tuple(layers))
    last = next((module for module in reversed(_chain(net) or []) if names[module] in {*layers, *skipped}), None)
    if last is not None:
        return Trace(outputs=(names[last],))
    return Trace(unclear="only an example=x, an input batch, shows where the network's output comes from")


def _chain(net: nn.Module) -> list[nn.Module] | None:
    """The modules of a network that runs them one after the other; None for any other network."""
    if type(net) is nn.Sequential and "forward" not in net.__dict__:
        parts = [_chain(module) for module in net]
        return None if None in parts else [module for part in parts if part for module in part]
    return None if list(net.children()) else [net]


def _roles(traced: Trace) -> dict[str, str]:
    """By layer, its part in the network, as far as that is known."""
    roles = {
        name: " and ".join(["first"] * (not at.sends) + ["output"] * (name in traced.outputs)) or "hidden"
        for name, at in traced.layers.items()
        if name not in traced.idle and not traced.unclear
    }
    return {**{name: "output" for name in traced.outputs if not traced.unclear}, **roles}


def _title(chosen: Choices, parts: Mapping[str, Part]) -> str:
    """The rule of the network: that of all layers that nothing names, or all that there are."""
    names = list(dict.fromkeys(part.rule for part in parts.values()))
    return chosen.rule.rule if chosen.rule and chosen.rule.rule in names else ", ".join(names)


def _remarks(network: Record, traced: Trace, chosen: Choices) -> Iterator[tuple[str, str, str]]:
    """What learns in another way than a reader of the call would think: what about, a message, what mends it."""
    unable = {name: why for name, why in network.skipped.items() if why != LEFT_ALONE}
    if unable:
        listed = "; ".join(f"{name or 'the network itself'}: {why}" for name, why in unable.items())
        yield (
            "skipped",
            f"not converted: {listed}. They learn by autograd from the errors that reach them: below a converted layer "
            "these are what its rule sends, and no exact gradient",
            f"rules={{{next(iter(unable))!r}: None}} says that this is meant",
        )
    for rule, why in {layer.rule: unlike_in(layer) for layer in network.layers.values()}.items():
        if why:
            yield (
                f"scale of {rule}",
                f"{rule} does not follow the scale of the loss: {why}",
                "loss.backward() once per step, of the mean over the batch, and no GradScaler",
            )
    outside = [name for name in traced.outside if name in network.layers]
    if outside:
        yield (
            "outside",
            f"the network reads the weights of {', '.join(outside)} elsewhere than in calls of the layer: what it "
            f"computes there learns by autograd, and not as {network.layers[outside[0]].rule} says",
            f"in the network: net.{outside[0]}(x)",
        )
    idle = [name for name in traced.idle if name in network.layers]
    if idle and chosen.output is not None:
        yield (
            "idle",
            f"{', '.join(idle)} did not run with the example in the network's own mode, and so follows no `output`",
            f"net.train() or net.eval() before convert, or name it: rules={{{idle[0]!r}: ...}}",
        )


# --- install ---


def install(
    net: nn.Module, network: Record, layers: Mapping[str, nn.Module], assembly: Assembly, logits: Logits
) -> None:
    """Make every layer one of its rule's, or leave the network as it was."""
    root = net.__class__
    before = [
        (layer, type(layer), dict(layer.__dict__), dict(layer._parameters), dict(layer._buffers))
        for layer in (layers[name] for name in assembly.places)
    ]
    for name, place in assembly.places.items():
        check_moves(layers[name], _moves(place, assembly.constraints))
    constraints = tuple(constraint_class(part.program)(**part.parameters) for part in assembly.constraints)
    network.deliberate = logits.deliberate
    network.logits, network.axes = logits, len(logits.shape or (0, 0))
    mixed = len({id(place.part.program.module) for place in assembly.places.values()}) > 1
    kinds = {
        layers[name]: layer_class(
            place.part.program, kind_of(layers[name]), mixed, logits.sequence and place.part.binding.reads_out
        )
        for name, place in assembly.places.items()
    }
    facts = {
        name: {**_told(place, assembly.constraints), "constraints": constraints}
        for name, place in assembly.places.items()
    }
    try:
        with torch.inference_mode(False), quiet(layers.values()):
            connect(net, network, kinds, facts)
            if assembly.whole:
                network.become(net, directed(kind_of(net)))  # type: ignore[arg-type]
            if network.in_step:
                network.hooks.append(net.register_forward_pre_hook(keep_in_step))
            if logits.module is not None and assembly.whole:
                network.hooks.append(net.get_submodule(logits.module).register_forward_hook(network.joined))
    except BaseException:  # whatever it was is raised again
        leave(network)
        for hook in network.hooks:
            hook.remove()
        net.__class__ = root
        net.__dict__.pop("ruledsl", None)
        for layer, kind, attributes, own, buffers in before:
            forget(layer)  # type: ignore[arg-type]
            layer.__class__ = kind
            layer.__dict__ = attributes
            layer._parameters, layer._buffers = own, buffers
        raise
    network.added = {
        name: Added(
            tuple(layer.__dict__.keys() - attributes.keys()),
            tuple(layer._parameters.keys() - own.keys()),
            tuple(layer._buffers.keys() - buffers.keys()),
        )
        for name, (layer, _, attributes, own, buffers) in zip(assembly.places, before, strict=True)
    }
    network.known = ref(net), WeakSet(net.modules())
    for layer in network.layers.values():
        layer.check_frozen()


def _told(place: Place, constraints: Sequence[Part]) -> dict[str, Any]:
    return {
        **place.part.parameters,
        "moves": _moves(place, constraints),
        "followers": followers(place.part.program),
        "phi": place.phi,
        "sends": place.sends,
        "input_shape": place.input_shape,
        "output_shape": place.output_shape,
        "downstream": dict(place.downstream),
    }


def _moves(place: Place, constraints: Sequence[Part]) -> dict[str, str]:
    return {name: part.rule for part in (place.part, *constraints) for name in moved(part.program)}


def weight_layers(net: nn.Module) -> Iterator[tuple[str, RuleLayer]]:
    """The layers of a converted network that follow a rule, by name."""
    for name, module in net.named_modules():
        if isinstance(module, RuleLayer):
            yield name, module
