"""Any Flax NNX module, its weight layers turned in place into layers that follow a rule: survey, assemble, install."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
from flax import nnx
from jax import Array, lax

from ruledsl.assembly import Facts, Part, Place, RuleLike, Trace, assemble
from ruledsl.choices import compiled_choices, follow
from ruledsl.errors import RuleWarning, UserError, suggest
from ruledsl_jax.direct import directed
from ruledsl_jax.layers import Activation
from ruledsl_jax.modules import KINDS, Following, RuleLayer
from ruledsl_jax.tracing import modules_of, trace

Net = TypeVar("Net", bound=nnx.Module)
PADDINGS = ("SAME", "SAME_LOWER", "VALID")
WORDS = "Linear, Conv, ConvTranspose or Embed"


@dataclass(frozen=True)
class Record:
    """`net.ruledsl`: the names of the converted layers, in the order in which they run where that is known, and
    (name, reason) of what was skipped; `classes` is the number of outputs, where a rule asks for it."""

    layers: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    classes: int | None


def convert(
    net: Net,
    rule: RuleLike,
    *,
    output: RuleLike | None = None,
    example: Array | None = None,
    activations: Mapping[str, Activation | str] | None = None,
    seed: int = 0,
    **parameters: float,
) -> Net:
    """Let the weight layers of a network learn by a rule. Returns `net`, changed in place.

    Weight layers are `nnx.Linear`, `Conv`, `ConvTranspose`, and `Embed` where the rule allows it.

    rule         a name of the library, a path, `ruledsl.load(...)`, or a compiled Program
    output       another rule for the weight layer that runs last (without an example: that was made last)
    example      an input batch, traced through the network in evaluation mode: it tells in which order layers run, the
                 shapes of activities, and the number of classes (otherwise `out_features` of the last Linear)
    activations  by the layer's name, its activation (or the name of one in jax.nn): rules call it `phi`
    seed         where the random values of the rule's tensors come from
    parameters   values for the rule's parameters

    Weights and biases stay the same variables under the same names, and pseudo-gradients arrive through `nnx.grad`.
    What the rule adds stands beside them (`net.fc1.B`). `net.ruledsl` lists the layers, and what was skipped, of
    which there is a warning too. Raises UserError, before anything has changed, where network and rule do not fit.
    """
    chosen = compiled_choices("jax", rule, None, output, parameters)
    for part in chosen.parts:
        _refuse(part)
    layers, skipped = _survey(net, chosen.parts)
    traced = Trace() if example is None else trace(net, example)
    last = [*(traced.layers or layers)][-1:]
    parts = {name: part for name, part in follow(layers, chosen, last).items() if part is not None}
    phis = _activations(layers, activations or {})
    facts = {name: _facts(layer) for name, layer in layers.items()}
    assembly = assemble(facts, traced, parts, [], phis, "jax.nn.relu")
    keys = dict(zip(layers, jax.random.split(jax.random.key(seed), len(layers)), strict=True))
    prepared = {
        name: _prepared(layers[name], place, assembly.classes, keys[name]) for name, place in assembly.places.items()
    }
    for name, made in prepared.items():
        # The object stays the same, so that whoever holds it holds the converted layer.
        layer = layers[name]
        layer.__class__ = KINDS[type(layer)]
        layer.follow(*made)
    if any(place.part.binding.direct for place in assembly.places.values()):
        net.__class__ = directed(type(net))
    net.ruledsl = Record(tuple(assembly.places), tuple(skipped.items()), assembly.classes)  # type: ignore[attr-defined]
    if skipped:
        listed = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        said = f"not converted, and learning by jax.grad from the errors that reach them: {listed}"
        warnings.warn(said, RuleWarning, stacklevel=2)
    return net


def _refuse(part: Part) -> None:
    """Raises UserError for what NNX layers don't do by themselves."""
    binding = part.binding
    own = [*(each.phase for each in binding.evoked), *(each.phase for each in binding.driven)]
    if own:
        raise UserError(
            f"{part.rule} has the phase {own[0]}, which NNX layers do not run by themselves",
            "call the functions of `program.module` in a loop of your own, or train it with PyTorch",
        )
    if binding.dense:
        raise UserError(
            f"{part.rule} reads delta[k], which NNX layers do not hand on",
            "call the functions of `program.module` in a network of your own, or train it with PyTorch",
        )


def _prepared(layer: Any, place: Place, classes: int | None, key: Array) -> tuple[Following, dict[str, Any], Array]:
    """What a layer follows, the tensors that its rule adds, and a key."""
    size = None if place.input_shape is None else tuple(place.input_shape[1:-1])
    following, kind = Following(place.part, place.phi, classes, size, place.sends), KINDS[type(layer)]
    own, key = jax.random.split(key)
    bias = getattr(layer, "bias", None)
    given = {"W": getattr(layer, kind.weights).get_value(), "b": None if bias is None else bias.get_value()}
    params, state = following.call(following.module.init, layer=kind.map_for(layer, size), key=own, **given)
    return following, {**params._asdict(), **state._asdict()}, key


def _survey(net: nnx.Module, parts: Sequence[Part]) -> tuple[dict[str, Any], dict[str, str]]:
    """The layers to convert by name, and the reasons why others with weights are not among them."""
    layers: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name, module in modules_of(net, (), set()):
        if isinstance(module, RuleLayer):
            rule = module.following.part.rule
            raise UserError(f"{name or 'the network'} already follows {rule}: convert it only once")
        why = _obstacle(module, parts)
        if why:
            skipped[name] = why
        elif type(module) in KINDS:
            layers[name] = module
    if not layers:
        raise UserError(f"{type(net).__name__} has no {WORDS} to convert")
    return layers, skipped


def _obstacle(module: Any, parts: Sequence[Part]) -> str | None:
    """Why a module with a weight of two or more axes can't follow a rule; None for others."""
    own = [value for value in vars(module).values() if isinstance(value, nnx.Param)]
    if all(getattr(parameter.get_value(), "ndim", 0) < 2 for parameter in own):
        return None
    kind = type(module)
    if kind not in KINDS:
        known = isinstance(module, tuple(KINDS))
        return f"{kind.__name__} {'computes something of its own' if known else f'is no {WORDS}'}"
    if kind is nnx.Embed:
        reading = [part.rule for part in parts if not part.program.maps_x_alone]
        return f"its input is indices, and {reading[0]} reads x as an activity" if reading else None
    if module.precision is not None or module.preferred_element_type is not None:
        return "it sets precision or preferred_element_type"
    if kind is nnx.Linear:
        return None if module.dot_general is lax.dot_general else "it has a dot_general of its own"
    if module.mask is not None or getattr(module, "conv_general_dilated", lax.conv_general_dilated) is not (
        lax.conv_general_dilated
    ):
        return "it has a mask or a convolution of its own"
    if getattr(module, "transpose_kernel", False):
        return "transpose_kernel"
    if isinstance(module.padding, str) and module.padding not in PADDINGS[:: 2 if kind is nnx.ConvTranspose else 1]:
        return f"padding={module.padding!r}"
    return None


def _facts(layer: Any) -> Facts:
    kind = KINDS[type(layer)]
    taken = frozenset({*dir(layer), *dir(RuleLayer), *RuleLayer.__annotations__})
    dense, indices = isinstance(layer, nnx.Linear), isinstance(layer, nnx.Embed)
    return Facts(type(layer).__name__, dense, kind.map_for(layer).units_out, indices, taken)


def _activations(layers: Mapping[str, Any], given: Mapping[str, Activation | str]) -> dict[str, Activation | None]:
    for name in given:
        if name not in layers:
            raise UserError(f"activations names {name!r}, which is no converted layer", suggest(name, layers))
    found: dict[str, Activation | None] = {}
    for name in layers:
        chosen: Any = given.get(name)
        if isinstance(chosen, str):
            chosen = getattr(jax.nn, chosen, None)
            if not callable(chosen):
                raise UserError(f"jax.nn has no activation {given[name]!r}")
        found[name] = chosen
    return found
