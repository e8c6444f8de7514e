"""One step of a network that follows rules, as a pure function: all its phases, `after step` and the constraints.

What of it never changes is a `Learner`, made once for all runs that differ in numbers alone: seeds, learning rates and
the parameters of rules are arguments of its functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ruledsl.architectures import Architecture
from ruledsl.architectures.sequences import EPSILON as LAYER_EPSILON
from ruledsl.program import TASK, Program
from ruledsl.training.config import LossConfig
from ruledsl_jax import networks
from ruledsl_jax.linear import Linear
from ruledsl_jax.losses import losses
from ruledsl_jax.movers import Mover
from ruledsl_jax.randomness import named
from ruledsl_jax.taught import Taught, call

TINY = 1e-30
MOMENTUM, EPSILON = 0.1, 1e-5  # of batch normalisation, as in PyTorch


class Plain(NamedTuple):
    """The parameters of a weight layer that follows no rule."""

    W: Array
    b: Array | None


class Gains(NamedTuple):
    """The parameters of a batch normalisation: [channels] each."""

    gain: Array
    shift: Array


class Embedding(NamedTuple):
    """A parameter that belongs neither to a weight layer nor to a normalisation: [positions, units]."""

    value: Array


class Averages(NamedTuple):
    """What a batch normalisation has seen on the average: [channels] each."""

    mean: Array
    var: Array


class Carry(NamedTuple):
    """Everything that changes while a network learns; dictionaries by path.

    params      Params of the rules' modules, `Plain` of layers without a rule, `Gains`, `Embedding`
    state       State of the rules' modules
    kept        what constraints keep of each layer, one after the other
    averages    of batch normalisations
    movers      states of the optimizers, by `Mover.name`
    fine        whether every loss so far was a finite number; nothing changes any more once it is False
    """

    params: dict[str, Any]
    state: dict[str, Any]
    kept: dict[str, tuple[Any, ...]]
    averages: dict[str, Averages]
    movers: dict[str, Any]
    fine: Array


Gradients = dict[tuple[str, str, str], Array]
"""By optimizer, path and tensor."""


class Numbers(NamedTuple):
    """The numbers that one run has and another one has not.

    rates       by optimizer, its learning rate
    parameters  by the number of a rule, its parameters; constraints: of each, likewise
    keys        by path, the random key of a layer; "" is that of the network
    """

    rates: dict[str, Array]
    parameters: tuple[dict[str, Array], ...]
    constraints: tuple[dict[str, Array], ...]
    keys: dict[str, Array]


class Moment(NamedTuple):
    """What a step is told: its number, the factors on rates, the counters, and the parameters that change.

    factor  by optimizer, and "" for those that are not named
    """

    step: Array
    factor: dict[str, Array]
    epoch: Array
    progress: Array
    changing: dict[str, Array]


class Seen(NamedTuple):
    """The loss of a batch and how many of its images were classified wrongly, before the network learnt from it."""

    loss: Array
    wrong: Array


@dataclass(frozen=True, eq=False)
class Learner:
    """A network, the rules of its layers, and what moves their parameters.

    layers       by path, in the order in which they run: those that follow a rule; `rule_of`: the number of each's rule
    maps         of every weight layer
    constraints  what holds after each step, in this order
    movers       the optimizers' parts, in the order in which they move
    own          the number of the network's own rule, whose parameters may change
    loss         what is made small
    clips        by optimizer, the largest norm of its pseudo-gradients
    narrow       whether activity and errors are bfloat16
    """

    architecture: Architecture
    layers: Mapping[str, Taught]
    rule_of: Mapping[str, int]
    maps: Mapping[str, Linear]
    constraints: tuple[Program, ...]
    movers: tuple[Mover, ...]
    own: int = 0
    loss: LossConfig = field(default_factory=LossConfig)
    clips: Mapping[str, float] = field(default_factory=dict)
    narrow: bool = False

    @property
    def classes(self) -> int:
        """Of the network."""
        return self.architecture.classes

    @cached_property
    def at_rest(self) -> Any:
        """A function: from parameters and, by name, keys of the movers, their states before the first step."""
        return jax.jit(lambda params, keys: {each.name: each.first(params, keys[each.name]) for each in self.movers})

    def step(
        self, carry: Carry, numbers: Numbers, moment: Moment, images: Array, labels: Array, phases: tuple[str, ...]
    ) -> tuple[Carry, Seen | None]:
        """One step with images [batch, *size, channels] and labels [batch].

        What was seen is that of the last phase that sees the batch, or of the first one whose loss is no finite number;
        None where none does. From such a loss on, nothing changes any more.
        """
        step = Step(self, numbers, moment, images, labels, carry)
        for phase in phases:
            if not self.driven(phase):
                step.pass_through(phase)
        for phase in phases:
            if self.driven(phase):
                step.drive(phase)
        step.end()
        return step.carry, step.seen

    def logits(self, carry: Carry, images: Array) -> Array:
        """[batch, *size, channels] -> [batch, classes], of the network as it is used."""
        return networks.forward(self.architecture, Use(self, carry), images)

    def driven(self, phase: str) -> bool:
        """Whether every layer has an input of its own in this phase."""
        return any(own.phase == phase for layer in self.layers.values() for own in layer.binding.driven)

    def errors_travel(self, phase: str) -> bool:
        """Whether errors go from layer to layer in a phase that sees the batch."""
        return phase == TASK or any(layer.pass_of(phase) for layer in self.layers.values())


@dataclass
class Step:
    """A step under way: `carry` is what it has come to; `changes`: by path, what `<-` made of the task's pass."""

    learner: Learner
    numbers: Numbers
    moment: Moment
    images: Array
    labels: Array
    carry: Carry
    seen: Seen | None = None
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def told(self) -> dict[str, dict[str, Any]]:
        """By layer, what its functions are told beside its tensors: parameters, the counters, the target."""
        clock = {
            "step": self.moment.step.astype(jnp.float32),
            "epoch": self.moment.epoch,
            "progress": self.moment.progress,
            "lr": self.numbers.rates[TASK] * self.factor(TASK),
            "target": jax.nn.one_hot(self.labels, self.learner.classes),
            "batch_size": len(self.images),
        }
        parameters = [{**own} for own in self.numbers.parameters]
        for name, value in self.moment.changing.items():
            parameters[self.learner.own][name] = value
        return {path: {**parameters[self.learner.rule_of[path]], **clock} for path in self.learner.layers}

    def factor(self, optimizer: str) -> Array:
        """What its learning rate is multiplied by."""
        return self.moment.factor.get(optimizer, self.moment.factor[""])

    def key(self, path: str) -> Array:
        """The random key of a layer for this step: `named` makes those of its tensors."""
        return jax.random.fold_in(self.numbers.keys[path], self.moment.step)

    # --- phases that see the batch ---

    def pass_through(self, phase: str) -> None:
        """A pass, what the optimizers make of it, and what `<-` assigns."""
        carry, layers = self.carry, self.learner.layers
        beside = {path: layer.beside(carry.params[path]) for path, layer in layers.items()}
        learnt = carry.params, carry.state, beside
        if self.learner.errors_travel(phase):
            derive = jax.value_and_grad(partial(self.loss, phase), has_aux=True)
            (loss, run), derived = derive(learnt)
            gradients = self.gradients(phase, *derived)
        else:
            (loss, run), derived = self.loss(phase, learnt), None
            gradients = run.gradients
        self.see(Seen(loss, run.wrong))
        self.carry = self.carry._replace(averages=self.fine(run.averages, carry.averages))
        self.move(phase, gradients)
        for path, stored in run.stored.items():
            self.store(path, *stored)
        if derived is not None:
            self.assign(phase, derived[1], derived[2])

    def see(self, seen: Seen) -> None:
        """What came of a pass, before anything is learnt from it."""
        if self.seen is not None:
            seen = jax.tree.map(partial(jnp.where, self.carry.fine), seen, self.seen)
        self.seen = seen
        self.carry = self.carry._replace(fine=self.carry.fine & jnp.isfinite(seen.loss))

    def fine(self, new: Any, old: Any) -> Any:
        """What is stored: the old values, once a loss was no finite number.

        Chosen here, where values are stored, and not at the end for all of them: a program that goes on with what it
        stores needs no second copy of it.
        """
        return jax.tree.map(partial(jnp.where, self.carry.fine), new, old)

    def loss(self, phase: str, learnt: tuple[Any, Any, Any]) -> tuple[Array, _Left]:
        """The mean loss of the batch in a phase, and what the pass leaves behind."""
        run = Training(self, phase, *learnt)
        logits = run.logits(self.images)
        wrong = jnp.sum(logits.argmax(1) != self.labels)
        loss = losses(self.learner.loss, logits, self.labels).mean()
        return loss, _Left(wrong, run.averages, run.gradients, run.stored)

    def gradients(self, phase: str, params: dict[str, Any], state: Any, beside: dict[str, Any]) -> Gradients:
        """The pseudo-gradients of a pass in which errors travelled, and the gradients of what follows no rule."""
        found: Gradients = {}
        for path, layer in self.learner.layers.items():
            for (optimizer, tensor), value in layer.gradients(phase, params[path], beside[path]).items():
                found[optimizer, path, tensor] = value
        if phase == TASK:
            for path, others in params.items():
                if path not in self.learner.layers:
                    found |= {(TASK, path, name): value for name, value in others._asdict().items()}
        return found

    def assign(self, phase: str, changes: dict[str, Any], beside: dict[str, Any]) -> None:
        """What `<-` made of a pass; of a rule that has the task alone, `advance` stores it when the step is over."""
        for path, layer in self.learner.layers.items():
            known = {"changes": changes[path], "beside": beside[path]}
            if layer.has(f"advance_{phase}"):
                self.advance(path, f"advance_{phase}", known)
            elif phase == TASK:
                self.changes[path] = known

    # --- phases that don't ---

    def drive(self, phase: str) -> None:
        """A phase in which every layer has an input of its own."""
        gradients: Gradients = {}
        results: dict[str, tuple[Any, Any]] = {}
        for path, layer in self.learner.layers.items():
            own = next((each for each in layer.binding.driven if each.phase == phase), None)
            if own is not None and (layer.sends or not own.sending_only):
                found = layer.run(phase, **self.held(path), **self.told[path], key=self.key(path))
                brought, results[path] = layer.sorted_results(phase, found)
                gradients |= {(optimizer, path, name): value for (optimizer, name), value in brought.items()}
        self.move(phase, gradients)
        for path, stored in results.items():
            self.store(path, *stored)

    def end(self) -> None:
        """What happens after the step: `after step`, fresh tensors, and the constraints."""
        for path, layer in self.learner.layers.items():
            if layer.has("advance") and (layer.phased or path in self.changes):
                self.advance(path, "advance", self.changes.get(path, {}))
            for index, constraint in enumerate(self.learner.constraints):
                self.constrain(path, index, constraint.module)

    def constrain(self, path: str, index: int, module: Any) -> None:
        """What a constraint does to a layer."""
        carry, layer = self.carry, self.learner.layers[path]
        kept = list(carry.kept[path])
        known = {**self.told[path], **self.numbers.constraints[index], "phi": layer.phi, "classes": layer.classes}
        known |= {"layer": layer.linear, "params": carry.params[path], "state": kept[index]}
        params, kept[index] = call(module.after_step, {**known, "key": self.key(path)})
        params = self.fine(_alike(params, carry.params[path]), carry.params[path])
        kept[index] = self.fine(_alike(kept[index], carry.kept[path][index]), carry.kept[path][index])
        self.carry = carry._replace(params={**carry.params, path: params}, kept={**carry.kept, path: tuple(kept)})

    # --- what there is, and what becomes of it ---

    def held(self, path: str) -> dict[str, Any]:
        """The tensors of a layer, as functions of its module take them."""
        return {"params": self.carry.params[path], "state": self.carry.state[path]}

    def advance(self, path: str, name: str, known: Mapping[str, Any]) -> None:
        """A function that stores."""
        layer = self.learner.layers[path]
        given = {**self.told[path], **known, **self.held(path), "key": self.key(path)}
        self.store(path, *layer.run(name, **given))

    def store(self, path: str, params: Any, state: Any) -> None:
        """Next values of a layer; None for what stays as it is."""
        held = self.held(path)
        if params is not None:
            params = self.fine(_alike(params, held["params"]), held["params"])
            self.carry = self.carry._replace(params={**self.carry.params, path: params})
        if state is not None:
            state = self.fine(_alike(state, held["state"]), held["state"])
            self.carry = self.carry._replace(state={**self.carry.state, path: state})

    def clipped(self, gradients: Gradients) -> Gradients:
        """Those of an optimizer that has a limit, scaled down to it."""
        clipped = dict(gradients)
        moved = {(mover.optimizer, *target) for mover in self.learner.movers for target in mover.targets}
        for optimizer, limit in self.learner.clips.items():
            mine = {key: value for key, value in gradients.items() if key[0] == optimizer and key in moved}
            norm = jnp.sqrt(sum((jnp.square(value).sum() for value in mine.values()), jnp.zeros(())))
            factor = jnp.minimum(1.0, limit / jnp.maximum(norm, TINY))
            clipped |= {key: factor * value for key, value in mine.items()}
        return clipped

    def move(self, phase: str, gradients: Gradients) -> None:
        """One step of every optimizer that has a pseudo-gradient in a phase."""
        params, movers = dict(self.carry.params), dict(self.carry.movers)
        gradients = self.clipped(gradients)
        for mover in self.learner.movers:
            if phase in mover.phases:
                rate = self.numbers.rates[mover.optimizer] * self.factor(mover.optimizer)
                told = {"epoch": self.moment.epoch, "progress": self.moment.progress, "fine": self.fine}
                movers[mover.name], moved = mover.move(movers[mover.name], params, gradients, rate, told)
                for (path, tensor), value in moved.items():
                    params[path] = params[path]._replace(**{tensor: value})
        self.carry = self.carry._replace(params=params, movers=movers)


class _Left(NamedTuple):
    """What a pass leaves behind; `stored`: by path, Params and State of layers in a phase without errors."""

    wrong: Array
    averages: dict[str, Averages]
    gradients: Gradients
    stored: dict[str, tuple[Any, Any]]


class Training:
    """The layers of a network in a phase of a step."""

    def __init__(self, step: Step, phase: str, params: Any, state: Any, beside: Any) -> None:
        self.step, self.learner, self.phase = step, step.learner, phase
        self.params, self.state, self.beside = (self.narrow(tree) for tree in (params, state, beside))
        self.averages = dict(step.carry.averages)
        self.gradients: Gradients = {}
        self.stored: dict[str, tuple[Any, Any]] = {}
        self.zeros: dict[str, Array] = {}
        self.zero: Any = None

    def logits(self, images: Array) -> Array:
        """The network's output, with the zeros that bring the error there to the layers that read it."""
        logits = networks.forward(self.learner.architecture, self, self.narrow(images))
        return (logits if self.zero is None else logits + self.zero).astype(jnp.float32)

    def narrow(self, tree: Any) -> Any:
        """Floats as they are computed with."""
        if not self.learner.narrow:
            return tree
        return jax.tree.map(lambda v: v.astype(jnp.bfloat16) if jnp.issubdtype(v.dtype, jnp.floating) else v, tree)

    def linear(self, path: str, x: Array) -> Array:
        """u of a weight layer"""
        x = self.narrow(x)
        layer = self.learner.layers.get(path)
        if layer is None:
            u = self.learner.maps[path].apply(self.params[path].W, x, self.params[path].b)
        elif self.learner.errors_travel(self.phase):
            u = self.with_errors(layer, x)
        else:
            u = self.without_errors(layer, x)
        # What reads errors from downstream has given a zero for them to every layer there.
        return u + self.zeros.pop(path) if path in self.zeros else u

    def held(self, path: str) -> dict[str, Any]:
        return {"params": self.params[path], "state": self.state[path], "beside": self.beside[path]}

    def with_errors(self, layer: Taught, x: Array) -> Array:
        own, name = layer.own_pass(self.phase)
        known = {**self.step.told[layer.path], **self.held(layer.path), "x": x}
        if own.dense:
            known["zeros"] = [self.zero_of(path, x) for path in (layer.path, *layer.downstream)]
        found = layer.run(name, **known)
        u: Array
        u, *more = found if own.direct or own.dense else (found,)
        if own.direct:
            self.zero = more[0] if self.zero is None else self.zero + more[0]
        if own.dense:
            self.zeros.pop(layer.path)  # it is in u already
            self.zeros |= zip(layer.downstream, more[-1], strict=True)
        return u

    def zero_of(self, path: str, x: Array) -> Array:
        """The zero for u of a layer."""
        if path not in self.zeros:
            self.zeros[path] = jnp.zeros_like(x, shape=(len(x), *self.learner.maps[path].post_shape))
        return self.zeros[path]

    def without_errors(self, layer: Taught, x: Array) -> Array:
        params = self.params[layer.path]
        if not layer.has(self.phase):
            return layer.linear.apply(params.W, x, params.b)
        found = layer.run(self.phase, **{**self.step.told[layer.path], **self.held(layer.path), "x": x})
        u: Array
        u, *rest = found if type(found) is tuple else (found,)
        brought, self.stored[layer.path] = layer.sorted_results(self.phase, rest)
        self.gradients |= {(optimizer, layer.path, name): value for (optimizer, name), value in brought.items()}
        return u

    def norm(self, path: str, v: Array) -> Array:
        """Batch normalisation over all axes but the last, which goes into the averages."""
        v = v.astype(jnp.float32)
        axes = tuple(range(v.ndim - 1))
        mean = v.mean(axes)
        var = jnp.square(v - mean).mean(axes)
        count = v.size // v.shape[-1]
        seen = Averages(mean, var * count / max(1, count - 1))
        self.averages[path] = jax.tree.map(
            lambda old, new: (1 - MOMENTUM) * old + MOMENTUM * jax.lax.stop_gradient(new), self.averages[path], seen
        )
        return _normalised(v, mean, var, self.params.get(path))

    def layer_norm(self, path: str, v: Array) -> Array:
        """Layer normalisation over the last axis."""
        return _normalised_by_position(v, self.params[path])

    def embedding(self, path: str) -> Array:
        """Its value."""
        value: Array = self.params[path].value
        return value

    def dropout(self, path: str, p: float, v: Array) -> Array:
        """v, of which a share p is zero."""
        key = named(self.step.key(""), path, self.phase)
        return jnp.where(jax.random.bernoulli(key, 1 - p, v.shape), v / (1 - p), 0)


@dataclass
class Use:
    """The layers of a network that is used, and learns nothing."""

    learner: Learner
    carry: Carry

    def linear(self, path: str, x: Array) -> Array:
        params = self.carry.params[path]
        return self.learner.maps[path].apply(params.W, x, params.b)

    def norm(self, path: str, v: Array) -> Array:
        return _normalised(v, *self.carry.averages[path], self.carry.params.get(path))

    def layer_norm(self, path: str, v: Array) -> Array:
        return _normalised_by_position(v, self.carry.params[path])

    def embedding(self, path: str) -> Array:
        value: Array = self.carry.params[path].value
        return value

    def dropout(self, path: str, p: float, v: Array) -> Array:
        return v


def _normalised(v: Array, mean: Array, var: Array, gains: Gains | None) -> Array:
    factor = jax.lax.rsqrt(var + EPSILON)
    return (v - mean) * factor if gains is None else (v - mean) * (factor * gains.gain) + gains.shift


def _normalised_by_position(v: Array, gains: Gains) -> Array:
    mean = v.mean(-1, keepdims=True)
    var = jnp.square(v - mean).mean(-1, keepdims=True)
    return (v - mean) * jax.lax.rsqrt(var + LAYER_EPSILON) * gains.gain + gains.shift


def _alike(new: Any, old: Any) -> Any:
    """Values in the shapes and types that they had before."""
    return jax.tree.map(lambda value, before: jnp.broadcast_to(value, before.shape).astype(before.dtype), new, old)
