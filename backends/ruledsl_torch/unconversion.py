"""The way back: a converted network as the plain one that it was, in place, with the weights that it has learnt."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from ruledsl.errors import UserError
from ruledsl_torch.attending import leave
from ruledsl_torch.composites import close
from ruledsl_torch.hooks import forget
from ruledsl_torch.layers import RuleLayer
from ruledsl_torch.network import state_of
from ruledsl_torch.plain import PlainLayer
from ruledsl_torch.record import Record

Net = TypeVar("Net", bound=nn.Module)
SPOKEN = ("_said", "_sending", "_seen", "_sent", "_alone", "_stepped", "_strikes")
"""Attributes that a layer gets while it runs."""


def unconvert(net: Net) -> Net:
    """Make a converted network the plain one that it was. Returns `net`, changed in place.

    Its classes are those of before, and weights and biases the same Parameter objects with the values that they have
    now. Everything that the rules added is gone: tensors, attributes, `net.ruledsl`. Optimizers that hold such a tensor
    hold it still: make new ones.
    Raises UserError for a network that was not converted, and for what a compiler or another module stands around.
    """
    network = state_of(net)
    if net.__dict__.get("ruledsl") is not network or not isinstance(network, Record):
        raise UserError(f"this {type(net).__name__} stands around the network that was converted", "unconvert that one")
    leave(network)
    for path, layer in network.layers.items():
        forget(layer)
        _release(network, path, layer)
    if "ruledsl" in vars(type(net)):  # it was made a subclass of its own class
        net.__class__ = type(net).__bases__[0]
    for hook in network.hooks:
        hook.remove()
    net.__dict__.pop("ruledsl", None)
    close(net)
    return net


def _release(network: Record, path: str, layer: RuleLayer) -> None:
    """Take from a layer what the rule added."""
    added = network.added[path]
    for name in added.parameters:
        layer._parameters.pop(name, None)
    for name in added.buffers:
        layer._buffers.pop(name, None)
        layer._non_persistent_buffers_set.discard(name)
    for name in (*added.attributes, *SPOKEN):
        layer.__dict__.pop(name, None)
    layer.__class__ = plain_class(type(layer))  # type: ignore[assignment]


def plain_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that a layer had before it was converted."""
    return next(each for each in kind.__mro__ if issubclass(each, nn.Module) and not issubclass(each, PlainLayer))
