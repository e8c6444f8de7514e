"""Any network, its weight layers turned in place into layers that follow a rule: survey, assemble, install."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ruledsl.assembly import Assembly, Facts, Part, Place, RuleLike, Trace, assemble, compiled
from ruledsl.errors import UserError, suggest
from ruledsl_torch.connecting import constraint_class, layer_class
from ruledsl_torch.layers import RuleLayer
from ruledsl_torch.linear import KINDS, symmetric_padding
from ruledsl_torch.network import NetworkState, connect
from ruledsl_torch.tracing import trace

Phi = Any  # an elementwise function of a tensor


def convert(
    net: nn.Module,
    rule: RuleLike,
    *,
    output: RuleLike | None = None,
    constraints: Sequence[RuleLike] = (),
    example: Tensor | None = None,
    activations: Mapping[str, Phi | str] | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    **parameters: float,
) -> nn.Module:
    """Let the weight layers of a network learn by a rule. Returns `net`, changed in place.

    Weight layers are Linear, Conv1d to Conv3d, ConvTranspose1d to 3d, and Embedding where the rule allows it.

    rule         a name of the library, a path, `ruledsl.load(...)`, or a compiled Program
    output       another rule for the last weight layer
    constraints  what holds after every step, in addition to what the rule says, and in this order
    example      an input batch, traced through the network in evaluation mode: it tells in which order layers run, the
                 shapes of activities, and the number of classes (otherwise `out_features` of the last Linear). Phases
                 with `drive` draw inputs of its shape: give it the size of the batches
    activations  by the layer's name, its activation (or the name of one in torch.nn.functional): rules call it `phi`
    seed, generator  where the random values of the rule's tensors come from; else torch's own generator
    parameters   values for the rule's parameters

    Weights and biases stay the same Parameter objects under the same names. What the rule adds stands beside them
    (`net.fc1.B`; of maps from the layers downstream `net.fc1.D_0`, `D_1`, in the order in which these layers run; of a
    constraint `net.fc1.constant_norm_n`). `net.ruledsl` lists the layers, and what was `skipped`, of which there is a
    warning too.
    Raises UserError, before anything has changed, where the network and the rule do not fit.
    """
    own = compiled(rule, "torch", parameters)
    other = None if output is None else compiled(output, "torch", {})
    layers, skipped = survey(net, (own, other or own))
    traced = Trace() if example is None else trace(net, layers, example)
    assembly = assemble(
        {name: _facts(layer) for name, layer in layers.items()},
        traced,
        own,
        other,
        [compiled(each, "torch", {}) for each in constraints],
        _activations(layers, activations or {}),
        "torch.relu",
    )
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
    install(net, layers, assembly, skipped, generator)
    if skipped:
        listed = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        warnings.warn(f"not converted, and learning by their exact gradient: {listed}", stacklevel=2)
    return net


# --- survey ---


def survey(net: nn.Module, parts: Sequence[Part]) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The layers to convert by name, and the reasons why others with weights are not among them."""
    layers: dict[str, nn.Module] = {}
    skipped: dict[str, str] = {}
    for name, module in net.named_modules():
        if isinstance(module, RuleLayer):
            raise UserError(f"{name or 'the network'} already follows {module.rule}: convert it only once")
        if hasattr(module, "_orig_mod"):
            raise UserError("the network is compiled already", "convert first: torch.compile(convert(net, rule))")
        why = _obstacle(module, parts)
        if why:
            skipped[name] = why
        elif type(module) in KINDS:
            layers[name] = module
    if not layers:
        raise UserError(f"{type(net).__name__} has no Linear, convolution or Embedding to convert")
    if "forward" in net.__dict__:
        raise UserError(f"{type(net).__name__} has a forward of its own, set on the object", "set it on the class")
    return layers, skipped


def _obstacle(module: nn.Module, parts: Sequence[Part]) -> str | None:
    """Why a module with a weight of two or more axes can't follow a rule; None for others."""
    own = list(module.parameters(recurse=False))
    name = type(module).__name__
    if any(isinstance(parameter, nn.UninitializedParameter) for parameter in own):
        return f"{name} has no weights before its first batch"
    if all(parameter.dim() < 2 for parameter in own):
        return None
    if type(module) not in KINDS:
        known = isinstance(module, tuple(KINDS))
        return f"{name} computes something of its own" if known else f"{name} is no Linear, convolution or Embedding"
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.padding_mode != "zeros":
            return f"padding_mode={module.padding_mode!r}"
        return None if symmetric_padding(module) else "padding='same' pads the two sides differently"
    if isinstance(module, nn.Embedding):
        if module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
            return "max_norm, scale_grad_by_freq and sparse are no part of a rule"
        for part in parts:
            if not part.program.maps_x_alone or part.driven:
                return f"its input is indices, and {part.rule} reads x as an activity"
    return None


def _facts(layer: Any) -> Facts:
    linear_map, axes = KINDS[type(layer)]
    indices = isinstance(layer, nn.Embedding)
    taken = {*dir(layer), *RuleLayer.__annotations__}
    return Facts(type(layer).__name__, axes == 1, linear_map(layer).units_out, indices, frozenset(taken))


def _activations(layers: Mapping[str, nn.Module], given: Mapping[str, Phi | str]) -> dict[str, Phi | None]:
    for name in given:
        if name not in layers:
            raise UserError(f"activations names {name!r}, which is no converted layer", suggest(name, layers))
    found: dict[str, Phi | None] = {}
    for name, layer in layers.items():
        chosen = given.get(name, getattr(layer, "phi", None))
        if isinstance(chosen, str):
            named = _identity if chosen == "identity" else getattr(F, chosen, None) or getattr(torch, chosen, None)
            if not callable(named):
                raise UserError(f"torch.nn.functional has no activation {chosen!r}")
            chosen = named
        found[name] = chosen
    return found


def _identity(v: Tensor) -> Tensor:
    return v


# --- install ---


def install(
    net: nn.Module,
    layers: Mapping[str, nn.Module],
    assembly: Assembly,
    skipped: dict[str, str],
    generator: torch.Generator | None,
) -> None:
    """Make every layer one of its rule's, or leave the network as it was."""
    before = [
        (layer, type(layer), dict(layer.__dict__), dict(layer._parameters), dict(layer._buffers))
        for layer in layers.values()
    ]
    constraints = tuple(constraint_class(part.program)(**part.parameters) for part in assembly.constraints)
    network = NetworkState(assembly.part.rule, {}, assembly.classes, generator)
    network.skipped = skipped
    mixed = len({place.part.rule for place in assembly.places.values()}) > 1
    kinds = {
        layers[name]: layer_class(place.part.program, type(layers[name]), mixed)
        for name, place in assembly.places.items()
    }
    facts = {name: {**_told(place), "constraints": constraints} for name, place in assembly.places.items()}
    try:
        connect(net, network, kinds, facts, assembly.whole)
    except Exception:
        for layer, kind, attributes, own, buffers in before:
            layer.__class__ = kind
            layer.__dict__ = attributes
            layer._parameters, layer._buffers = own, buffers
        raise


def _told(place: Place) -> dict[str, Any]:
    return {
        **place.part.parameters,
        "phi": place.phi,
        "sends": place.sends,
        "input_shape": place.input_shape,
        "output_shape": place.output_shape,
        "downstream": dict(place.downstream),
    }


def weight_layers(net: nn.Module) -> Iterator[tuple[str, RuleLayer]]:
    """The layers of a converted network that follow a rule, by name."""
    for name, module in net.named_modules():
        if isinstance(module, RuleLayer):
            yield name, module
