"""Any Flax NNX module, its Linear and Conv layers turned in place into layers that follow a rule."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
from flax import nnx
from jax import Array, lax

from ruledsl.errors import UserError, suggest
from ruledsl.program import Program
from ruledsl_jax import linear
from ruledsl_jax.direct import directed
from ruledsl_jax.initial import initialise, refuse_phases, slots
from ruledsl_jax.layer import Phi
from ruledsl_jax.modules import KINDS, Following, RuleLayer
from ruledsl_jax.plan import Plan
from ruledsl_jax.rehearsal import Seen, modules_of, rehearse

Net = TypeVar("Net", bound=nnx.Module)
PADDINGS = ("SAME", "SAME_LOWER", "VALID")


class Compilable(Protocol):
    """A rule, as `ruledsl.load` gives it."""

    def compile(self, backend: str) -> Program: ...


RuleLike = Program | Compilable | str | Path


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
    activations: Mapping[str, Phi | str] | None = None,
    seed: int = 0,
    **parameters: float,
) -> Net:
    """Let the `nnx.Linear` and `nnx.Conv` layers of a network learn by a rule. Returns `net`, changed in place.

    rule         a name of the library, a path, `ruledsl.load(...)`, or a compiled Program
    output       another rule for the last weight layer
    example      an input batch for a rehearsal in evaluation mode: it tells in which order layers run, the size of
                 images, and the number of classes (otherwise `out_features` of the last Linear)
    activations  by the layer's name, its activation (or the name of one in jax.nn): rules call it `phi`
    seed         where the random values of the rule's tensors come from
    parameters   values for the rule's parameters

    Weights and biases stay the same variables under the same names, and pseudo-gradients arrive through `nnx.grad`.
    What the rule adds stands beside them (`net.fc1.B`). `net.ruledsl` lists the layers, and what was skipped, of
    which there is a warning too. Raises UserError, before anything has changed, where network and rule do not fit.
    """
    layers, skipped = _survey(net)
    plan = _plan(rule, parameters)
    seen = {} if example is None else rehearse(net, example)
    ordered = list(seen) + [name for name in layers if name not in seen]
    plans = dict.fromkeys(layers, plan)
    if output is not None:
        plans[ordered[-1]] = _plan(output, {})
    for chosen in set(plans.values()):
        refuse_phases(chosen)
    phis = _activations(layers, plans, activations or {})
    classes = _classes(layers, plans, seen)

    prepared = {}
    for index, (name, layer) in enumerate(layers.items()):
        size = seen[name].input_size if name in seen else None
        following = Following(plans[name], phis[name], classes, size)
        prepared[name] = (
            following,
            *_prepared(name, layer, following, jax.random.fold_in(jax.random.key(seed), index)),
        )
    for name, layer in layers.items():
        # The object stays the same, so that whoever holds it holds the converted layer.
        layer.__class__ = KINDS[type(layer)]
        assert isinstance(layer, RuleLayer)
        layer.follow(*prepared[name])
    if any(plan.direct for plan in plans.values()):
        net.__class__ = directed(type(net))
    net.ruledsl = Record(tuple(ordered), tuple(skipped.items()), classes)  # type: ignore[attr-defined]
    if skipped:
        listed = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        warnings.warn(f"not converted, and learning by their exact gradient: {listed}", stacklevel=2)
    return net


def _prepared(name: str, layer: Any, following: Following, key: Array) -> tuple[Any, Any, Array]:
    """Tensors, slots and a key for a layer."""
    plan, image_free = following.plan, isinstance(layer, nnx.Linear)
    needs_size = any("out" in t.space and {"pre", "post"} & set(t.space) for t in plan.program.tensors)
    if needs_size and not image_free and following.input_size is None:
        raise UserError(
            f"{plan.program.rule} has a map between the output and the neurons of {name}, and their number depends on "
            "the size of the images",
            "give convert an example= of an input batch",
        )
    for tensor in plan.program.tensors:
        if tensor.kind != "forward" and (hasattr(layer, tensor.name) or hasattr(RuleLayer, tensor.name)):
            raise UserError(
                f"{plan.program.rule} calls a tensor `{tensor.name}`, and {type(layer).__name__} has a part of that "
                "name",
                "give it another name in the rule",
            )
    stand_in = _geometry(layer, following)
    own, key = jax.random.split(key)
    bias = None if layer.bias is None else layer.bias.get_value()
    kernel = layer.kernel.get_value()
    made = initialise(plan, stand_in, own, W=kernel, b=bias, classes=following.classes, phi=following.phi)
    present = made if layer.bias is not None else {k: v for k, v in made.items() if k != "b"}
    tensors = {name: value for name, value in made.items() if plan.program.tensor(name).kind != "forward"}
    return tensors, slots(plan, present), key


def _geometry(layer: Any, following: Following) -> linear.Linear:
    """The linear map of a layer that is not converted yet."""
    kind = KINDS[type(layer)]
    return kind.linear_map(_Borrowed(layer, following))  # type: ignore[arg-type]


class _Borrowed:
    """The attributes of a layer, and what it is going to follow."""

    def __init__(self, layer: Any, following: Following) -> None:
        self.layer, self.following = layer, following

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)


def _plan(rule: RuleLike, parameters: Mapping[str, float]) -> Plan:
    if isinstance(rule, Program):
        return Plan(rule, parameters)
    if isinstance(rule, str | Path):
        import ruledsl

        return Plan(ruledsl.load(rule, **parameters).compile("jax"))
    return Plan(rule.compile("jax"), parameters)


def _survey(net: nnx.Module) -> tuple[dict[str, Any], dict[str, str]]:
    """The layers to convert by name, and the reasons why others with weights are not among them."""
    layers: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name, module in modules_of(net, (), set()):
        if isinstance(module, RuleLayer):
            rule = module.following.plan.program.rule
            raise UserError(f"{name or 'the network'} already follows {rule}: convert it only once")
        why = _obstacle(module)
        if why:
            skipped[name] = why
        elif type(module) in KINDS:
            layers[name] = module
    if not layers:
        raise UserError(f"{type(net).__name__} has no Linear or Conv layer to convert")
    return layers, skipped


def _obstacle(module: Any) -> str | None:
    """Why a module with a weight of two or more axes can't follow a rule; None for others."""
    own = [value for value in vars(module).values() if isinstance(value, nnx.Param)]
    if all(getattr(parameter.get_value(), "ndim", 0) < 2 for parameter in own):
        return None
    kind = type(module)
    if kind not in KINDS:
        known = isinstance(module, nnx.Linear | nnx.Conv)
        return f"{kind.__name__} computes something of its own" if known else f"{kind.__name__} is no Linear or Conv"
    if module.precision is not None or module.preferred_element_type is not None:
        return "it sets precision or preferred_element_type"
    if kind is nnx.Linear:
        return None if module.dot_general is lax.dot_general else "it has a dot_general of its own"
    if len(module.kernel_size) != 2:
        return f"a convolution over {len(module.kernel_size)} axes"
    if module.mask is not None or module.conv_general_dilated is not lax.conv_general_dilated:
        return "it has a mask or a convolution of its own"
    if module.input_dilation not in (None, 1, (1, 1), [1, 1]):
        return "input_dilation"
    if isinstance(module.padding, str) and module.padding not in PADDINGS:
        return f"padding={module.padding!r}"
    return None


def _classes(layers: Mapping[str, Any], plans: Mapping[str, Plan], seen: Mapping[str, Seen]) -> int | None:
    """The number of outputs, where a rule asks for it."""
    if not any(plan.reads_out for plan in plans.values()):
        return None
    for at in seen.values():
        if at.classes is None:
            raise UserError("the network's output is not [batch, classes], as a rule that reads e or target needs it")
        return at.classes
    dense = [layer.out_features for layer in layers.values() if isinstance(layer, nnx.Linear)]
    if not dense:
        raise UserError("the rule reads e or target, and the number of classes is unknown", "give convert an example=")
    return int(dense[-1])


def _activations(
    layers: Mapping[str, Any], plans: Mapping[str, Plan], given: Mapping[str, Phi | str]
) -> dict[str, Phi | None]:
    for name in given:
        if name not in layers:
            raise UserError(f"activations names {name!r}, which is no converted layer", suggest(name, layers))
    found: dict[str, Phi | None] = {}
    for name in layers:
        chosen: Any = given.get(name)
        if isinstance(chosen, str):
            chosen = getattr(jax.nn, chosen, None)
            if not callable(chosen):
                raise UserError(f"jax.nn has no activation {given[name]!r}")
        if chosen is None and plans[name].needs_phi:
            raise UserError(
                f"{plans[name].program.rule} reads phi, and {name or 'the network'} declares no activation",
                f"convert(..., activations={{{name!r}: jax.nn.relu}})",
            )
        found[name] = chosen
    return found
