"""Flax NNX layers that follow a rule: they keep their class's interface and their parameters.

All state is in NNX variables, so that `nnx.jit`, `nnx.grad`, `nnx.split` and checkpoints see it. What a layer computes
are the functions of its rule's module, each called with what it asks for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from ruledsl.assembly import Part
from ruledsl.emit.binding import COUNTERS, Binding
from ruledsl.errors import UserError
from ruledsl_jax.layers import Activation
from ruledsl_jax.linear import Convolution, Dense, Embedding, Linear

SOURCE = "source of draws"  # with spaces in it, it can't be the name of a rule's tensor
ZERO = "zero of the output"
BATCH = "size of the batch"


class Held(nnx.Variable[Any]):
    """A tensor of a rule that has no pseudo-gradient: `fixed`, `fresh`, or assigned with `<-`."""


class Assigned(Held):
    """What a backward pass leaves a change (`<-`) or a second pseudo-gradient for: the gradient with respect to it."""


class Told(nnx.Variable[Any]):
    """`target`, the scalars `step epoch progress lr`, and the size of the batch, as far as the rule reads them."""


class Source(nnx.Variable[Any]):
    """The random key that `fresh` tensors are drawn from."""


class Zero(nnx.Variable[Any]):
    """Inside a forward pass, the zeros [batch, classes] whose gradient is e; otherwise a single zero."""


TAUGHT = (nnx.Param, Assigned)
"""`nnx.grad(loss, argnums=nnx.DiffState(0, TAUGHT))` for a rule that assigns what it computes from activity."""


@dataclass(frozen=True, eq=False)
class Following:
    """What a layer knows that is no array: its rule, its activation, the classes, the size of its input once known."""

    part: Part
    phi: Activation | None
    classes: int | None
    size: tuple[int, ...] | None
    sends: bool = True

    @property
    def module(self) -> Any:
        """The emitted module."""
        return self.part.program.module

    @property
    def binding(self) -> Binding:
        """What it computes, and when."""
        return self.part.binding

    def call(self, function: Callable[..., Any], **known: Any) -> Any:
        """A function of the module, with those of its arguments that are known."""
        known = {**self.part.parameters, "phi": self.phi, "classes": self.classes, "sends": self.sends, **known}
        return function(**{name: known[name] for name in inspect.signature(function).parameters if name in known})


class RuleLayer(nnx.Module):
    """What layers of all kinds have in common. `convert` makes them out of existing layers."""

    example_axes: ClassVar[int | None] = None
    weights: ClassVar[str] = "kernel"
    following: Following
    dtype: Any
    promote_dtype: Any
    map_for: ClassVar[Callable[..., Linear]]

    def follow(self, following: Following, made: Mapping[str, Any], key: Array) -> None:
        """Take up a rule: tensors with a pseudo-gradient become `nnx.Param`, others `Held`."""
        self.following = following
        module, binding = following.module, following.binding
        moved = {output.target for own in binding.passes for output in own.received}
        for name, value in made.items():
            if name not in ("W", "b"):
                kind = nnx.Param if name in module.Params._fields else Assigned if name in moved else Held
                setattr(self, name, kind(value) if value is not None else None)
        for output in binding.task.received if binding.task else ():
            if output.receiver in self.receivers:
                like = self.variable(output.target)
                setattr(self, output.receiver, None if like is None else Assigned(jnp.zeros_like(like.get_value())))
        for name in binding.clocked:
            setattr(self, name, Told(jnp.zeros(())))
        if "target" in binding.reads:
            self.target = Told(jnp.zeros((0, following.classes or 0)))
        if binding.draws:
            setattr(self, SOURCE, Source(key))
        if binding.direct:
            setattr(self, ZERO, Zero(jnp.zeros(())))
        if hasattr(module, "advance") and "batch_size" in inspect.signature(module.advance).parameters:
            setattr(self, BATCH, Told(jnp.ones(())))

    @property
    def receivers(self) -> tuple[str, ...]:
        """Second references to tensors that have a gradient already."""
        module = self.following.module
        return module.Beside._fields if hasattr(module, "Beside") else ()

    def variable(self, name: str) -> nnx.Variable[Any] | None:
        """The variable of W, b, or a tensor of the rule."""
        found: nnx.Variable[Any] | None = getattr(self, {"W": self.weights, "b": "bias"}.get(name, name), None)
        return found

    def held(self, names: tuple[str, ...]) -> dict[str, Array | None]:
        """The values of some tensors, by the names that the rule gives them."""
        variables = {name: self.variable(name) for name in names}
        return {name: None if variable is None else variable.get_value() for name, variable in variables.items()}

    def arguments(self, convert: Callable[[Any], Any] = lambda value: value) -> dict[str, Any]:
        """What functions of the module are given: params, state, beside, and what the network was told."""
        module = self.following.module
        given: dict[str, Any] = {
            "params": module.Params(**self.held(module.Params._fields)),
            "state": module.State(**self.held(module.State._fields)),
        }
        if self.receivers:
            given["beside"] = module.Beside(**self.held(self.receivers))
        given = jax.tree.map(convert, given)
        return given | {name: getattr(self, name).get_value() for name in self.following.binding.clocked}

    def linear_map(self, x: Array | None = None) -> Linear:
        """The linear map for an input x; without one, for functions that read no activity."""
        return type(self).map_for(self, self.following.size if x is None else x.shape[1:-1])

    def learning_forward(self, x: Array) -> Array:
        """u = W @ x + b, differentiated by the rule."""
        following, kernel = self.following, self.variable("W")
        assert kernel is not None
        floats = () if jnp.issubdtype(x.dtype, jnp.integer) else (x,)
        promoted = self.promote_dtype((kernel.get_value(), *floats), dtype=self.dtype)
        dtype, x = promoted[0].dtype, promoted[1] if floats else x
        given = self.arguments(lambda value: value.astype(dtype))
        if "target" in following.binding.reads:
            given["target"] = self._target(x.shape[0])
        if hasattr(self, BATCH):
            getattr(self, BATCH).set_value(jnp.full((), float(x.shape[0])))
        result = following.call(following.module.apply, layer=self.linear_map(x), x=x, **given)
        if not following.binding.direct:
            return result  # type: ignore[no-any-return]
        u, zero = result
        holder: Zero = getattr(self, ZERO)
        holder.set_value(holder.get_value() + zero)
        return u  # type: ignore[no-any-return]

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """inputs: [batch, *pre], or without the batch; a convolution takes several leading axes as well"""
        axes = len(self.kernel_size) + 1 if self.example_axes is None else self.example_axes  # type: ignore[attr-defined]
        leading = inputs.ndim - axes
        if leading == 1 or (leading > 1 and self.example_axes is not None):
            return self.learning_forward(inputs)
        u = self.learning_forward(inputs.reshape(prod(inputs.shape[:leading]), *inputs.shape[leading:]))
        return u.reshape(*inputs.shape[:leading], *u.shape[1:])

    def _target(self, batch: int) -> Array:
        target: Array = self.target.get_value()
        if target.shape[0] != batch:
            raise UserError(
                f"{self.following.part.rule} reads target, and the network was told one for "
                f"{target.shape[0]} examples, not for this batch of {batch}",
                "call observe(net, target=labels) before each forward pass",
            )
        return target

    def split_key(self) -> Array | None:
        """A new key from the layer's source; None for a rule that draws nothing."""
        source: Source | None = getattr(self, SOURCE, None)
        if source is None:
            return None
        given: Array
        kept, given = jax.random.split(source.get_value())
        source.set_value(kept)
        return given


# --- the kinds of layers ---


def _each(module: Any, value: Any) -> tuple[int, ...]:
    """One number for each dimension."""
    return (value or 1,) * len(module.kernel_size) if value is None or isinstance(value, int) else tuple(value)


def _reach(module: Any) -> list[int]:
    return [(k - 1) * d + 1 for k, d in zip(module.kernel_size, _each(module, module.kernel_dilation), strict=True)]


def _pairs(module: Any) -> tuple[tuple[int, int], ...]:
    both = (module.padding,) * len(module.kernel_size) if isinstance(module.padding, int) else module.padding
    return tuple((pad, pad) if isinstance(pad, int) else (int(pad[0]), int(pad[1])) for pad in both)


def _dense(module: Any, size: Any = None) -> Linear:
    return Dense(module.in_features, module.out_features)


def _convolution(module: Any, size: tuple[int, ...] | None = None) -> Linear:
    size, kernel, stride = size or tuple(module.kernel_size), tuple(module.kernel_size), _each(module, module.strides)
    zeros = _each(module, module.input_dilation)
    if isinstance(module.padding, str):
        spread = [(n - 1) * d + 1 for n, d in zip(size, zeros, strict=True)]
        pads = tuple((int(a), int(b)) for a, b in lax.padtype_to_pads(spread, _reach(module), stride, module.padding))
    else:
        pads = _pairs(module)
    sizes = (module.in_features, module.out_features, kernel, size)
    return Convolution(*sizes, stride, pads, _each(module, module.kernel_dilation), module.feature_group_count, zeros)


def _transposed(module: Any, size: tuple[int, ...] | None = None) -> Linear:
    kernel, stride = tuple(module.kernel_size), _each(module, module.strides)
    pads = _pairs(module) if not isinstance(module.padding, str) else ()
    for reach, step in zip(_reach(module), stride, strict=True) if isinstance(module.padding, str) else ():
        total = reach + step - 2 if module.padding == "SAME" else reach + step - 2 + max(reach - step, 0)
        before = reach - 1 if module.padding == "VALID" or step > reach - 1 else -(-total // 2)
        pads += ((before, total - before),)
    sizes = (module.in_features, module.out_features, kernel, size or kernel)
    return Convolution(*sizes, padding=pads, dilation=_each(module, module.kernel_dilation), input_dilation=stride)


def _embedding(module: Any, size: Any = None) -> Linear:
    return Embedding(module.num_embeddings, module.features)


class RuleLinear(RuleLayer, nnx.Linear):
    """A dense layer that follows a rule: [batch, in_features] -> [batch, out_features]."""

    example_axes, map_for = 1, _dense


class RuleConv(RuleLayer, nnx.Conv):
    """A convolution that follows a rule: [batch, *size, in_features] -> [batch, *size, out_features]."""

    map_for = _convolution


class RuleConvTranspose(RuleLayer, nnx.ConvTranspose):
    """A transposed convolution that follows a rule: [batch, *size, in_features] -> [batch, *size, out_features]."""

    map_for = _transposed


class RuleEmbed(RuleLayer, nnx.Embed):
    """An embedding that follows a rule: [batch, *] -> [batch, *, features]."""

    example_axes, weights, map_for = 0, "embedding", _embedding


KINDS: dict[type[nnx.Module], type[RuleLayer]] = {
    nnx.Linear: RuleLinear,
    nnx.Conv: RuleConv,
    nnx.ConvTranspose: RuleConvTranspose,
    nnx.Embed: RuleEmbed,
}
TELLABLE = tuple(name for name in COUNTERS if name != "step")


def rule_layers(net: nnx.Module) -> Iterator[tuple[tuple[Any, ...], RuleLayer]]:
    """The layers of a converted network that follow a rule, each with its path in `nnx.state`."""
    for path, node in nnx.iter_graph(net):
        if isinstance(node, RuleLayer):
            yield path, node


def take_zeros(net: nnx.Module) -> Any:
    """The sum of the zeros that the layers have emitted in this forward pass; they emit them anew in the next."""
    total: Any = 0.0
    for _, layer in rule_layers(net):
        if layer.following.binding.direct:
            holder: Zero = getattr(layer, ZERO)
            total = total + holder.get_value()
            holder.set_value(jnp.zeros(()))
    return total
