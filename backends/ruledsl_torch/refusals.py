"""What `convert` refuses before anything has changed: calls, and layers that would not learn as they seem to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ruledsl.errors import UserError, suggest

OPTIONS = ("rules", "output", "constraints", "example", "logits", "activations", "seed", "generator")


def check_call(net: object, rules: Sequence[object], parameters: Mapping[str, object]) -> None:
    """Raises UserError for what is no network, for layers in the place of rules, and for unknown arguments."""
    if isinstance(net, type):
        name = net.__name__
        raise UserError(f"{name} is a class, and convert changes a network", f"convert({name}(...), rule)")
    if not isinstance(net, nn.Module):
        name = getattr(net, "__name__", type(net).__name__)
        raise UserError(
            f"convert changes an nn.Module, and {name} is none", "what learns has to be in layers of torch.nn"
        )
    if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
        name = type(net).__name__
        raise UserError(
            f"{name} stands around the network, and would know nothing of what a rule adds to it",
            f"convert first: {name}(convert(net, rule))",
        )
    for rule in rules:
        if isinstance(rule, nn.Module):
            raise UserError(
                f"a rule was expected, and not the layer {rule}",
                'layers are named: convert(net, rule, rules={"fc3": "backprop"})',
            )
    for name, value in parameters.items():
        if isinstance(value, torch.Tensor) and name not in OPTIONS:
            raise UserError(f"{name} is a tensor, and parameters of a rule are numbers", f"{name}={name}.item()")
        if not isinstance(value, Real):
            raise UserError(f"convert has no argument `{name}`", suggest(name, OPTIONS))


def check_randomness(seed: object, generator: object) -> None:
    """Raises UserError for what no random values come from."""
    if seed is not None and (not isinstance(seed, Integral) or isinstance(seed, bool)):
        raise UserError(f"seed is {seed!r}, which is no whole number", "convert(..., seed=0)")
    if generator is not None and not isinstance(generator, torch.Generator):
        made = "convert(..., generator=torch.Generator().manual_seed(0)), or seed=0"
        raise UserError(f"generator is {generator!r}, which is no torch.Generator", made)


def check_ready(net: nn.Module) -> None:
    """Raises UserError where an example's way through the network would change it."""
    for name, module in net.named_modules():
        if any(map(is_lazy, (*module.parameters(recurse=False), *module.buffers(recurse=False)))):
            raise UserError(
                f"{name}, a {type(module).__name__}, has no weights before its first batch",
                "call net(x) once before convert",
            )


def check_weights(layers: Mapping[str, nn.Module]) -> None:
    """Raises UserError for weights that have no values yet, and for those that can never learn."""
    for name, layer in layers.items():
        for parameter in layer.parameters(recurse=False):
            if parameter.is_meta:
                raise UserError(
                    f"{name or 'the network'} is on the device meta, where tensors of a rule have no first values",
                    "net.to_empty(device=...) and the weights' first values come before convert",
                )
            if parameter.is_inference():
                raise UserError(
                    f"the weights of {name or 'the network'} were made in inference mode, and can never learn",
                    "make the network outside of torch.inference_mode()",
                )


def check_layer(name: str, layer: nn.Module) -> None:
    """Raises UserError for a layer of a known class that would not compute what its rule says."""
    at = name or "the network"
    alone = f"rules={{{name!r}: None}} leaves it alone"
    if "forward" in layer.__dict__:
        raise UserError(
            f"{at} has a forward of its own, set on the object, which would go on in the place of the rule's",
            f"del net.{name}.forward, or {alone}" if name else "set it on the class",
        )
    if any(parameter.is_complex() for parameter in layer.parameters(recurse=False)):
        raise UserError(f"{at} has complex weights, and rules are equations of real numbers", alone)
