"""Any network, its Linear and Conv2d layers turned in place into layers that follow a rule."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ruledsl.errors import UserError, suggest
from ruledsl.plan import ConstraintPlan, Plan
from ruledsl.program import Program, Schedule
from ruledsl_torch.direct import directed
from ruledsl_torch.initial import Shapes, initial_tensors
from ruledsl_torch.layers import Phi, RuleConv2d, RuleLayer, RuleLinear
from ruledsl_torch.linear import symmetric_padding
from ruledsl_torch.record import Record
from ruledsl_torch.rehearsal import Seen, rehearse
from ruledsl_torch.steps import draw_fresh

KINDS: dict[type[nn.Module], type[RuleLayer]] = {nn.Linear: RuleLinear, nn.Conv2d: RuleConv2d}


class Compilable(Protocol):
    """A rule, as `ruledsl.load` gives it."""

    def compile(self, backend: str) -> Program: ...


RuleLike = Program | Compilable | str | Path
WeightLayer = nn.Linear | nn.Conv2d


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
    """Let the Linear and Conv2d layers of a network learn by a rule. Returns `net`, changed in place.

    rule         a name of the library, a path, `ruledsl.load(...)`, or a compiled Program
    output       another rule for the last weight layer
    constraints  what holds after every step, in addition to what the rule says, and in this order
    example      an input batch for a rehearsal in evaluation mode: it tells in which order layers run, the shapes
                 of activities, and the number of classes (otherwise `out_features` of the last Linear). Phases with
                 `drive` draw inputs of its shape: give it the size of the batches
    activations  by the layer's name, its activation (or the name of one in torch.nn.functional): rules call it `phi`
    seed, generator  where the random values of the rule's tensors come from; else torch's own generator
    parameters   values for the rule's parameters

    Weights and biases stay the same Parameter objects under the same names. What the rule adds stands beside them
    (`net.fc1.B`; of maps from the layers downstream `net.fc1.D_0`, `D_1`, in the order in which these layers run; of a
    constraint `net.fc1.constant_norm_n`). `net.ruledsl` lists the layers, and what was `skipped`, of which there is a
    warning too.
    Raises UserError, before anything has changed, where the network and the rule do not fit.
    """
    layers, skipped = _survey(net)
    plan = _plan(rule, parameters)
    added = tuple(ConstraintPlan(_program(constraint, {})) for constraint in constraints)
    seen = {} if example is None else rehearse(net, layers, example)
    ordered = list(seen) + [name for name in layers if name not in seen]
    plans = dict.fromkeys(layers, plan)
    if output is not None:
        plans[ordered[-1]] = _plan(output, {})

    phis = _activations(layers, plans, activations or {})
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
    record = Record(plan, _classes(layers, plans, seen), skipped, generator)
    shapes = {name: _shapes(name, layer, record, seen) for name, layer in layers.items()}
    tensors = {
        name: initial_tensors(plans[name], layer, shapes[name], phis[name], generator) for name, layer in layers.items()
    }
    owned = {name: list(found) for name, found in tensors.items()}
    for name, module in layers.items():
        for constraint in added:
            more = initial_tensors(constraint, module, shapes[name], phis[name], generator)
            owned[name] += more
            tensors[name] = {**more, **tensors[name]}
    _check_names(layers, plans, owned)
    _check_phases(plans, seen)

    for name in ordered:
        layer = _become(layers[name])
        layer.follow(
            plans[name],
            record,
            name,
            tensors[name],
            phis[name],
            constraints=added,
            input_shape=seen[name].input_shape if name in seen else None,
            sends=shapes[name].sends or not _waits_for_senders(plans[name], tensors[name]),
            downstream=dict(shapes[name].downstream or {}) if plans[name].dense else {},
        )
        record.layers[name] = layer
    for name in record.clocked - {"lr"}:
        record.tell(name, 0.0)
    if any(plan.direct or plan.dense or plan.evoked for plan in plans.values()) or record.schedule != Schedule():
        net.__class__ = directed(type(net))  # type: ignore[arg-type]
    net.ruledsl = record  # type: ignore[assignment]
    draw_fresh(record)
    record.begin_step()
    if skipped:
        listed = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        warnings.warn(f"not converted, and learning by their exact gradient: {listed}", stacklevel=2)
    return net


def _program(rule: RuleLike, parameters: Mapping[str, float]) -> Program:
    if isinstance(rule, str | Path):
        import ruledsl

        return ruledsl.load(rule, **parameters).compile("torch")
    return rule if isinstance(rule, Program) else rule.compile("torch")


def _plan(rule: RuleLike, parameters: Mapping[str, float]) -> Plan:
    named = isinstance(rule, str | Path)  # static parameters too can be given with a name
    return Plan(_program(rule, parameters if named else {}), {} if named else parameters)


def _waits_for_senders(plan: Plan, tensors: Mapping[str, Tensor | None]) -> bool:
    """Whether a layer that sends to nobody lacks something that a sending one has."""
    beside = {call.target for phase in (*plan.driven, *plan.evoked) for call in plan.phases[phase]}
    return any(value is None for value in tensors.values()) or bool(beside & plan.serves_sending)


def _survey(net: nn.Module) -> tuple[dict[str, WeightLayer], dict[str, str]]:
    """The layers to convert by name, and the reasons why others with weights are not among them."""
    layers: dict[str, WeightLayer] = {}
    skipped: dict[str, str] = {}
    for name, module in net.named_modules():
        if isinstance(module, RuleLayer):
            raise UserError(f"{name or 'the network'} already follows {module.plan.program.rule}: convert it only once")
        if hasattr(module, "_orig_mod"):
            raise UserError("the network is compiled already", "convert first: torch.compile(convert(net, rule))")
        why = _obstacle(module)
        if why:
            skipped[name] = why
        elif isinstance(module, nn.Linear | nn.Conv2d):
            layers[name] = module
    if not layers:
        raise UserError(f"{type(net).__name__} has no Linear or Conv2d layer to convert")
    if "forward" in net.__dict__:
        raise UserError(f"{type(net).__name__} has a forward of its own, set on the object", "set it on the class")
    return layers, skipped


def _obstacle(module: nn.Module) -> str | None:
    """Why a module with a weight of two or more axes can't follow a rule; None for others."""
    own = list(module.parameters(recurse=False))
    if any(isinstance(parameter, nn.UninitializedParameter) for parameter in own):
        return f"{type(module).__name__} has no weights before its first batch"
    if all(parameter.dim() < 2 for parameter in own):
        return None
    if type(module) is nn.Conv2d:
        if module.padding_mode != "zeros":
            return f"padding_mode={module.padding_mode!r}"
        return None if symmetric_padding(module) else "padding='same' pads the two sides differently"
    if type(module) in KINDS:
        return None
    if isinstance(module, nn.Linear | nn.Conv2d):
        return f"{type(module).__name__} computes something of its own"
    return f"{type(module).__name__} is no Linear or Conv2d"


def _classes(layers: Mapping[str, WeightLayer], plans: Mapping[str, Plan], seen: Mapping[str, Seen]) -> int | None:
    """The number of outputs, where a rule asks for it."""
    if not any(plan.reads_out for plan in plans.values()):
        return None
    for at in seen.values():
        if at.classes is None:
            raise UserError("the network's output is not [batch, classes], as a rule that reads e or target needs it")
        return at.classes
    dense = [layer.out_features for layer in layers.values() if isinstance(layer, nn.Linear)]
    if not dense:
        raise UserError("the rule reads e or target, and the number of classes is unknown", "give convert an example=")
    return dense[-1]


def _shapes(name: str, layer: WeightLayer, record: Record, seen: Mapping[str, Seen]) -> Shapes:
    at = seen.get(name)
    if at is not None:
        downstream = {other: seen[other].output_shape[1:] for other in at.downstream}
        return Shapes(record.classes, at.input_shape[1:], at.output_shape[1:], at.sends, downstream)
    if isinstance(layer, nn.Linear):
        return Shapes(record.classes, (layer.in_features,), (layer.out_features,), True)
    return Shapes(record.classes, None, None, True)


def _activations(
    layers: Mapping[str, WeightLayer], plans: Mapping[str, Plan], given: Mapping[str, Phi | str]
) -> dict[str, Phi | None]:
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
        if chosen is None and plans[name].needs_phi:
            where = name or "the network"
            raise UserError(
                f"{plans[name].program.rule} reads phi, and {where} declares no activation",
                f"convert(..., activations={{{name!r}: torch.relu}})",
            )
        found[name] = chosen
    return found


def _identity(v: Tensor) -> Tensor:
    return v


def _check_names(
    layers: Mapping[str, WeightLayer], plans: Mapping[str, Plan], tensors: Mapping[str, Sequence[str]]
) -> None:
    for name, layer in layers.items():
        for tensor in tensors[name]:
            twice = tensors[name].count(tensor) > 1
            if twice or hasattr(layer, tensor) or hasattr(RuleLayer, tensor) or tensor in RuleLayer.__annotations__:
                owner = type(layer).__name__
                raise UserError(
                    f"{plans[name].program.rule} calls a tensor `{tensor}`, and {owner} has a part of that name",
                    "give it another name in the rule",
                )


def _check_phases(plans: Mapping[str, Plan], seen: Mapping[str, Seen]) -> None:
    schedules = {plan.program.schedule for plan in plans.values()} - {Schedule()}
    if len(schedules) > 1:
        raise UserError("the rule of the last layer has a schedule that differs from that of the others")
    driven = {phase for plan in plans.values() for phase in plan.driven}
    for phase in driven & {phase for plan in plans.values() for phase in plan.evoked}:
        raise UserError(f"the phase {phase} has a drive in one of the two rules, and none in the other")
    for name, plan in plans.items():
        if plan.driven and name not in seen:
            raise UserError(f"{plan.program.rule} drives every layer", "give convert an example= of an input batch")
        if plan.dense and seen[name].visits > 1:
            raise UserError(f"{plan.program.rule} reads delta[k], and {name} runs {seen[name].visits} times")


def _become(module: nn.Module) -> RuleLayer:
    # The object stays the same, so that whoever holds it holds the converted layer.
    module.__class__ = KINDS[type(module)]
    assert isinstance(module, RuleLayer)
    return module


def weight_layers(net: nn.Module) -> Iterator[tuple[str, RuleLayer]]:
    """The layers of a converted network that follow a rule, by name."""
    for name, module in net.named_modules():
        if isinstance(module, RuleLayer):
            yield name, module
