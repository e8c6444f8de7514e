"""The way back: a converted NNX network as the plain one that it was, in place, with the weights that it has learnt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from flax import nnx

from ruledsl_jax.guided import is_guided
from ruledsl_jax.modules import KINDS, PARAMETER, rule_layers
from ruledsl_jax.record import record_of

Net = TypeVar("Net", bound=nnx.Module)
PLAIN = {follower: plain for plain, follower in KINDS.items()}


def unconvert(net: Net) -> Net:
    """Make a converted network the plain one that it was. Returns `net`, changed in place.

    Its classes are those of before, and weights and biases the same variables with the values that they have now.
    Everything that the rules added is gone: tensors, attributes, `net.ruledsl`. Optimizers that hold the state of such
    a tensor hold it still: make new ones.
    Raises UserError for a network that was not converted.
    """
    record_of(net)
    if is_guided(type(net)):
        net.__class__ = type(net).__bases__[0]
    for _, layer in list(rule_layers(net)):
        following = layer.following
        told = (PARAMETER.format(name) for name in following.part.parameters)
        layer.__class__ = PLAIN[type(layer)]
        _remove(layer, (*following.added, *told))
    _remove(net, ("ruledsl",))
    return net


def _remove(module: Any, names: Iterable[str]) -> None:
    """Attributes, and what NNX remembers of them."""
    gone = {*names, "__class__"}
    for name in gone & vars(module).keys():
        delattr(module, name)
    kept = {name: value for name, value in module._pytree__nodes.items() if name not in gone}
    object.__setattr__(module, "_pytree__nodes", type(module._pytree__nodes)(kept))
