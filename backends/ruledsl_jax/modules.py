"""Flax NNX layers that follow a rule: `Linear` and `Conv` that keep their class's interface and their parameters.

All state is in NNX variables, so that `nnx.jit`, `nnx.grad`, `nnx.split` and checkpoints see it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax import Array, lax
from jax import numpy as jnp

from ruledsl.errors import UserError
from ruledsl_jax import linear
from ruledsl_jax.layer import Phi, bind
from ruledsl_jax.plan import VISITS, Plan

SOURCE = "source of draws"  # with spaces in it, like the slots' names, it can't be the name of a rule's tensor
ZERO = "zero of the output"
READ_BY_RULES = {"W": "kernel", "b": "bias"}


class Held(nnx.Variable[Any]):
    """A tensor of a rule that has no pseudo-gradient: `fixed`, `fresh`, or assigned with `<-`."""


class Slot(nnx.Variable[Any]):
    """Zeros whose gradient is what the backward pass assigns (`<-`)."""


class Told(nnx.Variable[Any]):
    """`target` and the scalars `step epoch progress lr`, as far as the rule reads them."""


class Source(nnx.Variable[Any]):
    """The random key that `fresh` tensors are drawn from."""


class Zero(nnx.Variable[Any]):
    """Inside a forward pass, the zeros [batch, classes] whose gradient is e; otherwise a single zero."""


TAUGHT = (nnx.Param, Slot)
"""`nnx.grad(loss, argnums=nnx.DiffState(0, TAUGHT))` for a rule that assigns what it computes from activity."""


@dataclass(frozen=True)
class Following:
    """What a layer knows that is no array: its rule, its activation, the classes, its images' size once known."""

    plan: Plan
    phi: Phi | None
    classes: int | None
    input_size: linear.Pair | None


class RuleLayer(nnx.Module):
    """What a dense layer and a convolution have in common. `convert` makes them out of existing layers."""

    following: Following
    kernel: Any
    bias: Any
    dtype: Any
    promote_dtype: Any

    def follow(
        self, following: Following, tensors: Mapping[str, Array], slots: Mapping[str, Array], key: Array
    ) -> None:
        """Take up a rule: tensors with a pseudo-gradient become `nnx.Param`, others `Held`."""
        self.following = following
        plan = following.plan
        for name, value in tensors.items():
            kind = nnx.Param if plan.program.tensor(name).learns == "grad" else Held
            setattr(self, name, kind(value))
        for name, value in slots.items():
            setattr(self, name, Slot(value))
        for name in plan.clocked:
            setattr(self, name, Told(jnp.zeros(())))
        if "target" in plan.inputs:
            self.target = Told(jnp.zeros((0, following.classes or 0)))
        if plan.draws:
            setattr(self, SOURCE, Source(key))
        if plan.direct:
            setattr(self, ZERO, Zero(jnp.zeros(())))

    def variable(self, name: str) -> nnx.Variable[Any] | None:
        """The variable of W, b, a tensor of the rule, or a slot."""
        found: nnx.Variable[Any] | None = getattr(self, READ_BY_RULES.get(name, name), None)
        return found

    def tensors(self) -> dict[str, Array]:
        """W, b and the rule's tensors, by the names that the rule gives them."""
        names = (tensor.name for tensor in self.following.plan.program.tensors)
        return {name: v.get_value() for name in names if (v := self.variable(name)) is not None}

    def slots(self) -> dict[str, Array]:
        """The slots of the layer."""
        plan = self.following.plan
        names = (*plan.slots, VISITS) if plan.slots else ()
        return {name: getattr(self, name).get_value() for name in names}

    def linear_map(self, x: Array | None = None) -> linear.Linear:
        """The linear map for an input x; without one, for functions that read no activity."""
        raise NotImplementedError

    def learning_forward(self, x: Array) -> Array:
        """u = W @ x + b, differentiated by the rule."""
        plan = self.following.plan
        tensors = self.tensors()
        bias = tensors.get("b")
        x, tensors["W"], bias = self.promote_dtype((x, tensors["W"], bias), dtype=self.dtype)
        if bias is not None:
            tensors["b"] = bias
        tensors = {name: value.astype(x.dtype) for name, value in tensors.items()}
        told: dict[str, Any] = {name: getattr(self, name).get_value() for name in plan.clocked}
        if "target" in plan.inputs:
            told["target"] = self._target(x.shape[0])
        following = self.following
        f = bind(plan, self.linear_map(x), following.classes if plan.direct else None, following.phi)
        result = f(tensors, x, slots=self.slots(), **told)
        if not plan.direct:
            return result  # type: ignore[no-any-return]
        u, zero = result
        holder: Zero = getattr(self, ZERO)
        holder.set_value(holder.get_value() + zero)
        return u  # type: ignore[no-any-return]

    def _target(self, batch: int) -> Array:
        target: Array = self.target.get_value()
        if target.shape[0] != batch:
            raise UserError(
                f"{self.following.plan.program.rule} reads target, and the network was told one for "
                f"{target.shape[0]} examples, not for this batch of {batch}",
                "call observe(net, target=labels) before each forward pass",
            )
        return target


class RuleLinear(RuleLayer, nnx.Linear):
    """A dense layer that follows a rule: [batch, in_features] -> [batch, out_features]."""

    def linear_map(self, x: Array | None = None) -> linear.Linear:
        """See RuleLayer."""
        return linear.Dense(self.in_features, self.out_features)

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """inputs: [batch, in_features], or without the batch"""
        return self.learning_forward(inputs) if inputs.ndim > 1 else self.learning_forward(inputs[None])[0]


class RuleConv(RuleLayer, nnx.Conv):
    """A convolution that follows a rule: [batch, height, width, in_features] -> [batch, ..., out_features]."""

    def linear_map(self, x: Array | None = None) -> linear.Linear:
        """See RuleLayer."""
        kernel, stride = _pair(self.kernel_size), _pair(self.strides)
        size = (x.shape[1], x.shape[2]) if x is not None else self.following.input_size or kernel
        dilation = _pair(self.kernel_dilation)
        return linear.Conv2d(
            self.in_features,
            self.out_features,
            kernel,
            stride,
            pads(self.padding, size, kernel, stride, dilation),
            dilation,
            self.feature_group_count,
            size,
        )

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """inputs: [batch, height, width, in_features], or with other leading axes, or with none"""
        if inputs.ndim == 4:
            return self.learning_forward(inputs)
        leading = inputs.shape[:-3]
        u = self.learning_forward(inputs.reshape(-1, *inputs.shape[-3:]))
        return u.reshape(*leading, *u.shape[1:])


KINDS: dict[type[nnx.Module], type[RuleLayer]] = {nnx.Linear: RuleLinear, nnx.Conv: RuleConv}


def pads(padding: Any, size: linear.Pair, kernel: linear.Pair, stride: linear.Pair, dilation: linear.Pair) -> Any:
    """The padding of an `nnx.Conv` in numbers: ((top, bottom), (left, right))."""
    if isinstance(padding, str):
        reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
        return tuple((int(low), int(high)) for low, high in lax.padtype_to_pads(size, reach, stride, padding))
    both = (padding, padding) if isinstance(padding, int) else padding
    return tuple((pad, pad) if isinstance(pad, int) else (pad[0], pad[1]) for pad in both)


def rule_layers(net: nnx.Module) -> Iterator[tuple[tuple[Any, ...], RuleLayer]]:
    """The layers of a converted network that follow a rule, each with its path in `nnx.state`."""
    for path, node in nnx.iter_graph(net):
        if isinstance(node, RuleLayer):
            yield path, node


def take_zeros(net: nnx.Module) -> Any:
    """The sum of the zeros that the layers have emitted in this forward pass; they emit them anew in the next."""
    total: Any = 0.0
    for _, layer in rule_layers(net):
        if layer.following.plan.direct:
            holder: Zero = getattr(layer, ZERO)
            total = total + holder.get_value()
            holder.set_value(jnp.zeros(()))
    return total


def _pair(value: Any) -> linear.Pair:
    if value is None:
        return (1, 1)
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def split_key(layer: RuleLayer) -> Array | None:
    """A new key from the layer's source; None for a rule that draws nothing."""
    source: Source | None = getattr(layer, SOURCE, None)
    if source is None:
        return None
    given: Array
    kept, given = jax.random.split(source.get_value())
    source.set_value(kept)
    return given
