"""Flax NNX layers that follow a rule: they keep their class's interface and their parameters.

All state is in NNX variables, so that `nnx.jit`, `nnx.grad`, `nnx.split` and checkpoints see it. What a layer computes
are the functions of its rule's module, each called with what it asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from ruledsl.assembly import Part
from ruledsl.emit.binding import COUNTERS, Binding
from ruledsl.errors import UserError
from ruledsl.program import TASK
from ruledsl_jax.linear import Convolution, Dense, Embedding, Linear
from ruledsl_jax.passing import Passing, arriving, current
from ruledsl_jax.randomness import key_for
from ruledsl_jax.taught import Taught, asked

CLOCK = "number of steps"  # with spaces in it, it can't be the name of a rule's tensor
BATCH = "size of the batch"
PARAMETER = "parameter {}"


class Held(nnx.Variable[Any]):
    """A tensor of a rule that has no pseudo-gradient: `fixed`, `fresh`, or assigned with `<-`."""


class Assigned(Held):
    """What a backward pass leaves a change (`<-`) or a second pseudo-gradient for: the gradient with respect to it."""


class Told(nnx.Variable[Any]):
    """`target`, the scalars `step epoch progress lr`, parameters that change, as far as the rule reads them."""


TAUGHT = (nnx.Param, Assigned)
"""`nnx.grad(loss, argnums=nnx.DiffState(0, TAUGHT))` for a rule that assigns what it computes from activity."""


@dataclass(frozen=True, eq=False)
class Following:
    """What a layer knows that is no array.

    part         its rule and the values of the parameters
    taught       the rule on this layer
    constraints  what holds after every step
    key          what its random keys follow from
    size         of its input, where an example has shown it; batch: of the example's batch
    added        the names of what it did not have before
    """

    part: Part
    taught: Taught
    constraints: tuple[Part, ...]
    key: tuple[int | str, ...]
    size: tuple[int, ...] | None
    batch: int | None
    added: tuple[str, ...] = ()

    @property
    def binding(self) -> Binding:
        """What it computes, and when."""
        return self.part.binding

    @property
    def clocked(self) -> list[str]:
        """The counters that it reads, or its constraints do."""
        bindings = (self.binding, *(each.binding for each in self.constraints))
        return list(dict.fromkeys(name for binding in bindings for name in binding.clocked))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:g}" for name, value in self.part.parameters.items())
        return f"{self.part.rule}({values})" if values else self.part.rule


class RuleLayer(nnx.Module):
    """What layers of all kinds have in common. `convert` makes them out of existing layers."""

    example_axes: ClassVar[int | None] = None
    unit_axes: ClassVar[int] = 1
    weights: ClassVar[str] = "kernel"
    following: Following
    dtype: Any
    promote_dtype: Any
    map_for: ClassVar[Callable[..., Linear]]

    def follow(self, following: Following, made: Mapping[str, Any]) -> None:
        """Take up a rule: tensors with a pseudo-gradient become `nnx.Param`, others `Held`."""
        before = set(vars(self))
        taught, binding = following.taught, following.binding
        moved = {output.target for own in binding.passes for output in own.received}
        moved |= {
            o.target
            for own in binding.evoked
            if not own.errors
            for o in taught.outputs_of(own.phase)
            if o.kind != "grad"
        }
        for name, value in made.items():
            learns = name in taught.module.Params._fields and (taught.sends or name not in binding.serves_sending)
            kind = nnx.Param if learns else Assigned if name in moved else Held
            setattr(self, name, kind(value) if value is not None else None)
        for output in (output for own in binding.passes if own.errors for output in own.received):
            if output.receiver in self.receivers_of(taught):
                like = self.value(output.target)
                setattr(self, output.receiver, None if like is None else Assigned(jnp.zeros_like(like)))
        for name in following.clocked:
            setattr(self, name, Told(jnp.zeros(())))
        if "target" in binding.reads:
            self.target = Told(jnp.zeros((0, taught.classes or 0)))
        drawing = [binding, *(each.binding for each in following.constraints)]
        if any(each.draws for each in drawing) or binding.driven:
            setattr(self, CLOCK, Told(jnp.zeros((), jnp.int32)))
        if any("batch_size" in asked(f) for name, f in vars(taught.module).items() if name.startswith("advance")):
            setattr(self, BATCH, Assigned(jnp.ones(())))
        self.following = replace(following, added=(*(name for name in vars(self) if name not in before), "following"))

    @staticmethod
    def receivers_of(taught: Taught) -> tuple[str, ...]:
        """Second references to tensors that have a gradient already."""
        fields: tuple[str, ...] = taught.module.Beside._fields if hasattr(taught.module, "Beside") else ()
        return fields

    @property
    def receivers(self) -> tuple[str, ...]:
        """Second references to tensors that have a gradient already."""
        return self.receivers_of(self.following.taught)

    @classmethod
    def size_of(cls, module: Any, shape: Sequence[int]) -> tuple[int, ...]:
        """The positions of an input of this shape, which has its batch first and its units last."""
        return tuple(shape[1 : len(shape) - cls.unit_axes])

    def name_of(self, name: str) -> str:
        """What W, b, or a tensor of the rule is called here."""
        return {"W": self.weights, "b": "bias"}.get(name, name)

    def variable(self, name: str) -> nnx.Variable[Any] | None:
        """The variable of W, b, or a tensor of the rule."""
        found: nnx.Variable[Any] | None = getattr(self, self.name_of(name), None)
        return found

    def value(self, name: str) -> Any:
        """The value of W, b, or a tensor of the rule, in the shape that the rule knows."""
        variable = self.variable(name)
        return None if variable is None else self.flat(name, variable.get_value())

    def set_value(self, name: str, value: Any) -> None:
        """The inverse of `value`; what is stored keeps its type."""
        variable = self.variable(name)
        if variable is not None:
            old = variable.get_value()
            variable.set_value(
                jax.tree.map(lambda new, before: new.astype(before.dtype).reshape(before.shape), value, old)
            )

    def flat(self, name: str, value: Any) -> Any:
        """W and b in the shape that the rule knows."""
        return value

    def arguments(self, convert: Callable[[Any], Any] = lambda value: value) -> dict[str, Any]:
        """What functions of the module are given: tensors, parameters, and what the network was told."""
        taught = self.following.taught
        module = taught.module
        given: dict[str, Any] = {
            "params": module.Params(*map(self.value, module.Params._fields)),
            "state": module.State(*map(self.value, module.State._fields)),
        }
        if self.receivers:
            given["beside"] = module.Beside(*map(self.value, self.receivers))
        given = jax.tree.map(convert, given)
        given |= {name: getattr(self, name).get_value() for name in self.following.clocked}
        return given | self.parameters()

    def parameters(self) -> dict[str, Any]:
        """The values of the rule's parameters; of those that change, what the network was told last."""
        names = self.following.part.parameters
        changed = {
            name: vars(self)[PARAMETER.format(name)].get_value()
            for name in names
            if PARAMETER.format(name) in vars(self)
        }
        return {**names, **changed}

    def linear_map(self, x: Array | None = None) -> Linear:
        """The linear map for an input x; without one, for functions that read no activity."""
        size = self.following.size if x is None else x.shape[1 : x.ndim - self.unit_axes]
        return type(self).map_for(self, size)

    # --- a pass ---

    def learning_forward(self, x: Array) -> Array:
        """u = W @ x + b, differentiated by the rule."""
        taught, own = self.following.taught, current()
        floats = () if jnp.issubdtype(x.dtype, jnp.integer) else (x,)
        promoted = self.promote_dtype((self.value("W"), *floats), dtype=self.dtype)
        dtype, x = promoted[0].dtype, promoted[1] if floats else x
        given = self.arguments(lambda value: value.astype(dtype)) | {"x": x, "layer": self.linear_map(x)}
        if "target" in taught.binding.reads:
            given["target"] = self._target(x.shape[0])
        u = self._with_errors(own, given) if own is None or own.travels else self._without_errors(own, given)
        if own is not None and taught.path in own.zeros:
            zero = own.zeros.pop(taught.path)
            self._check_zero(zero, u)
            u = u + zero
        if hasattr(self, BATCH):
            u = u + arriving(getattr(self, BATCH).get_value(), jnp.full((), float(x.shape[0]))).astype(u.dtype)
        return u

    def _with_errors(self, own: Passing | None, given: dict[str, Any]) -> Array:
        taught, x = self.following.taught, given["x"]
        this, name = taught.own_pass(TASK if own is None else own.phase)
        if (this.direct or this.dense) and own is None:
            raise UserError(
                f"{self.following.part.rule} reads errors from other layers, and this layer ran outside the forward "
                "pass of the converted network",
                "call the whole network, or convert the part that you call",
            )
        if this.dense and own is not None:
            shapes = {taught.path: given["layer"].post_shape, **{k: v.post_shape for k, v in taught.downstream.items()}}
            given["zeros"] = [own.zero_for(path, (len(x), *shape), x) for path, shape in shapes.items()]
        found = taught.run(name, **given)
        u: Array
        u, *more = found if this.direct or this.dense else (found,)
        if this.direct and own is not None:
            own.to_output(self, more[0])
        if this.dense and own is not None:
            own.zeros.pop(taught.path)  # it is in u already
            own.zeros |= zip(taught.downstream, more[-1], strict=True)
        return u

    def _check_zero(self, zero: Array, u: Array) -> None:
        if zero.shape != u.shape:
            raise UserError(
                f"the activity of {self.following.taught.path} is {list(u.shape)}, and that of the example was "
                f"{list(zero.shape)}",
                f"{self.following.part.rule} has a map for every neuron: convert with an example of the right size",
            )

    def _without_errors(self, own: Passing, given: dict[str, Any]) -> Array:
        """What the phase makes of the activity arrives as gradients, whatever errors there are."""
        taught, phase = self.following.taught, own.phase
        fixed = {**given, **{name: jax.lax.stop_gradient(given[name]) for name in ("params", "state")}}
        if not taught.has(phase):
            return given["layer"].apply(fixed["params"].W, given["x"], fixed["params"].b)
        found = taught.run(phase, **fixed)
        (u, *rest) = found if type(found) is tuple else (found,)
        brought, stored = taught.sorted_results(phase, jax.lax.stop_gradient(rest))
        values = {name: value for (_, name), value in brought.items()}
        for new, before in zip(stored, (fixed["params"], fixed["state"]), strict=True):
            if new is not None:
                moved = [o.target for o in taught.outputs_of(phase) if o.kind != "grad" and hasattr(new, o.target)]
                values |= {name: _change(getattr(new, name), getattr(before, name)) for name in moved}
        values = {name: value for name, value in values.items() if value is not None and self._moves(name)}
        variables = {name: self.variable(name) for name in values}
        holders = {name: one.get_value() for name, one in variables.items() if one is not None}
        shaped = {k: jnp.broadcast_to(v, self.value(k).shape).reshape(holders[k].shape) for k, v in values.items()}
        arrived = arriving(holders, {name: value.astype(holders[name].dtype) for name, value in shaped.items()})
        return u + arrived.astype(u.dtype)  # type: ignore[no-any-return]

    def _moves(self, name: str) -> bool:
        """Whether a tensor is there to learn: what serves sending alone is not, where nothing is sent."""
        taught = self.following.taught
        return self.variable(name) is not None and (taught.sends or name not in taught.binding.serves_sending)

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

    def key(self) -> Array | None:
        """The random key of this step; None for a layer that draws nothing."""
        clock: Told | None = getattr(self, CLOCK, None)
        return None if clock is None else jax.random.fold_in(key_for(*self.following.key), clock.get_value())


def _change(new: Any, old: Any) -> Any:
    return None if old is None else jax.tree.map(lambda a, b: a - b, new, old)


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
    return Dense(module.in_features, module.out_features, tuple(size or ()))


def _general(module: Any, size: Any = None) -> Linear:
    return Dense(prod(module.in_features), prod(module.out_features), tuple(size or ()))


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
    return Embedding(module.num_embeddings, module.features, tuple(size or ()))


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

    example_axes, weights, map_for, unit_axes = 0, "embedding", _embedding, 0


class RuleGeneral(RuleLayer, nnx.LinearGeneral):
    """A dense layer over several axes, such as a projection of attention: [batch, *, *in] -> [batch, *, *out]."""

    map_for = _general

    @classmethod
    def size_of(cls, module: Any, shape: Sequence[int]) -> tuple[int, ...]:
        """The positions of an input, which are the axes that are no units."""
        units = {axis % len(shape) for axis in module.axis}
        return tuple(size for axis, size in enumerate(shape) if axis not in units)[1:]

    def flat(self, name: str, value: Any) -> Any:
        """W: [in, out], b: [out]"""
        shapes = {"W": (prod(self.in_features), prod(self.out_features)), "b": (prod(self.out_features),)}
        return value.reshape(shapes[name]) if name in shapes else value

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """inputs: the axes `axis` are those of in_features; those of out_features stand last in what comes out"""
        count = len(self.in_features)
        x = jnp.moveaxis(inputs, self.axis, range(-count, 0))
        around = x.shape[: x.ndim - count]
        u = self.learning_forward(x.reshape(*(around or (1,)), prod(self.in_features)))
        return u.reshape(*around, *self.out_features)


KINDS: dict[type[nnx.Module], type[RuleLayer]] = {
    nnx.Linear: RuleLinear,
    nnx.Conv: RuleConv,
    nnx.ConvTranspose: RuleConvTranspose,
    nnx.Embed: RuleEmbed,
    nnx.LinearGeneral: RuleGeneral,
}
TELLABLE = tuple(name for name in COUNTERS if name != "step")


def rule_layers(net: nnx.Module) -> Iterator[tuple[tuple[Any, ...], RuleLayer]]:
    """The layers of a converted network that follow a rule, each with its path in `nnx.state`."""
    for path, node in nnx.iter_graph(net):
        if isinstance(node, RuleLayer):
            yield path, node
