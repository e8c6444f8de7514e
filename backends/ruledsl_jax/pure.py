"""A rule on one linear map, as pure functions: for plain JAX, Equinox, or anything else that calls functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

from jax import Array

from ruledsl.assembly import Facts, Part, RuleLike, Trace, Traced, assemble, compiled, unsuitable
from ruledsl.emit.binding import COUNTERS
from ruledsl.errors import UserError, suggest
from ruledsl.program import TASK
from ruledsl_jax.layers import Activation
from ruledsl_jax.linear import Dense, Embedding, Linear
from ruledsl_jax.randomness import key_of
from ruledsl_jax.taught import Taught, required

OWN = "this layer"
TOLD = ("target", "batch_size", *COUNTERS)


class Held(NamedTuple):
    """Everything that a layer has, as one tree of arrays.

    params  what has a pseudo-gradient: W, b and what else the rule teaches, for an optimizer
    state   what else belongs to the rule; its gradients are for `advance`
    beside  second references to tensors of `params`, for what is computed of them beside their gradient; or None
    """

    params: Any
    state: Any
    beside: Any = None


@dataclass(frozen=True, eq=False)
class Layer:
    """What `layer` makes: functions of a layer's tensors. None of them keeps anything."""

    part: Part
    taught: Taught

    @property
    def module(self) -> Any:
        """The emitted module."""
        return self.taught.module

    def init(self, key: Array | int, W: Array | None = None, b: Array | None = None) -> Held:
        """First values, for W [in, out] or [*kernel, in / groups, out] and b [out] of your own, or with new ones.

        key  a random key, or a number that stands for one
        """
        params, state = self.taught.first(key_of(key), W, b, self.part.parameters)
        return Held(params, state, self.taught.beside(params))

    def apply(self, held: Held, x: Array, *, zeros: Sequence[Array] = (), **told: Any) -> Any:
        """u = W @ x + b, with the derivatives of the rule: [batch, *pre] -> [batch, *post].

        zeros  for a rule that reads delta[k]: those for this layer's u and for those downstream (`perturbations`)
        told   what the rule reads beside activity: target [batch, classes], step, epoch, progress, lr; and other values
               of its parameters

        A rule that reads e gives (u, zero): add the zero [batch, classes] to the network's output. One that reads
        delta[k] gives (u, zeros) or (u, zero, zeros), the last for the layers downstream.
        Raises UserError for what it is not told, and for other names.
        """
        layers = 1 + len(self.taught.downstream)
        if self.taught.own_pass(TASK)[0].dense and len(zeros) != layers:
            raise UserError(
                f"{self.part.rule} reads delta[k], and {len(zeros)} zeros were given for {layers} layers",
                "begin with layer.perturbations(linears, x), and give every layer what the one before it hands on",
            )
        return self._call("apply", held, told, x=x, zeros=tuple(zeros))

    def advance(
        self, held: Held, gradients: Held | None = None, *, key: Array | int | None = None, **told: Any
    ) -> Held:
        """Between two steps, after the optimizer: what `<-` computed, `after step`, and `fresh` tensors drawn anew.

        gradients  of the loss with respect to `held`, for a rule that assigns what it computes from activity
        key        for a rule that draws
        told       as in `apply`; and batch_size
        """
        for name in (f"advance_{TASK}", "advance"):
            if self.taught.has(name):
                known = {} if key is None else {"key": key_of(key)}
                if gradients is not None:
                    known |= {"changes": gradients.state, "beside": gradients.beside}
                held = self._again(held, *self._call(name, held, told, **known))
        return held

    def drive(
        self, phase: str, held: Held, key: Array | int, batch_size: int, **told: Any
    ) -> tuple[dict[str, Any], Held]:
        """A phase in which the layer has an input of its own: pseudo-gradients by optimizer, and what it has then."""
        phases = [own.phase for own in self.part.binding.driven]
        if phase not in phases:
            raise UserError(f"{self.part.rule} has no phase `{phase}` with an input of its own", suggest(phase, phases))
        own = next(own for own in self.part.binding.driven if own.phase == phase)
        if own.sending_only and not self.taught.sends:
            return {}, held
        found = self._call(phase, held, told, key=key_of(key), batch_size=batch_size)
        brought, (params, state) = self.taught.sorted_results(phase, found)
        nothing = self.module.Params(*(None for _ in self.module.Params._fields))
        gradients: dict[str, Any] = {}
        for (optimizer, name), value in brought.items():
            gradients[optimizer] = gradients.get(optimizer, nothing)._replace(**{name: value})
        return gradients, self._again(held, params, state)

    def perturbations(self, linears: Sequence[Linear], x: Array) -> tuple[Array, ...]:
        """Zeros for the u of every layer of a network, in the order in which they run; x is the network's input."""
        made: tuple[Array, ...] = self.module.perturbations(linears, x)
        return made

    def _again(self, held: Held, params: Any, state: Any) -> Held:
        params = held.params if params is None else params
        return Held(params, held.state if state is None else state, self.taught.beside(params))

    def _call(self, name: str, held: Held, told: Mapping[str, Any], **known: Any) -> Any:
        """A function of the module. Raises UserError where something that it reads was not given."""
        parameters = self.part.parameters
        for each in told:
            if each not in (*parameters, *TOLD):
                raise UserError(f"{self.part.rule} reads no `{each}`", suggest(each, (*parameters, *TOLD)))
        given = {**parameters, **known, **told, **held._asdict()}
        function = getattr(self.module, name)
        own = {"layer", "phi", "classes", "sends"}
        missing = [each for each in required(function) if each not in given and each not in own]
        if missing:
            raise UserError(f"{self.part.rule} reads {missing[0]}, which was not given", f"{missing[0]}=...")
        return self.taught.run(name, **given)


def layer(
    rule: RuleLike,
    linear: Linear,
    *,
    phi: Activation | None = None,
    classes: int | None = None,
    sends: bool = True,
    downstream: Sequence[Linear] = (),
    **parameters: float,
) -> Layer:
    """A rule on one linear map, as pure functions of trees of arrays: for `jit`, `grad`, `vmap` and `scan`.

    rule        a name of the library, a path, `ruledsl.load(...)`, or a compiled Program
    linear      `ruledsl_jax.Dense(in, out)`, `Convolution(...)` or `Embedding(...)`: it knows all sizes
    phi         the activation that follows, for a rule that reads it
    classes     the number of the network's outputs, for a rule that reads e or target
    sends       False for a layer whose input depends on no parameters: nobody needs an error from it
    downstream  the layers that run after this one, in their order, for a rule that reads delta[k]
    parameters  values for the parameters of the rule

        hidden = ruledsl_jax.layer("feedback_alignment", ruledsl_jax.Dense(784, 256), sends=False)
        held = hidden.init(jax.random.key(0))
        u = hidden.apply(held, x)                    # jax.grad of a loss with respect to `held` is what the rule says
        held = hidden.advance(held, gradients)       # after an optimizer has moved `held.params`

    Raises UserError for what is no learning rule, and where rule and layer do not fit.
    """
    if not isinstance(linear, Linear):
        kind = getattr(linear, "__name__", type(linear).__name__)
        raise UserError(f"linear is {kind}, which is no linear map", "ruledsl_jax.Dense(784, 256), for example")
    for name, value in parameters.items():
        if not isinstance(value, Real):
            raise UserError(f"{name} is {value!r}, and parameters of a rule are numbers")
    part = compiled(rule, "jax", parameters)
    others = {f"layer {number} downstream": each for number, each in enumerate(downstream, 1)}
    maps: dict[str, Linear] = {OWN: linear, **others}
    names = list(maps)
    met = {
        name: Traced((1, *own.pre_shape), (1, *own.post_shape), name != OWN or sends, tuple(names[index + 1 :]))
        for index, (name, own) in enumerate(maps.items())
    }
    facts = {
        name: Facts(type(own).__name__, isinstance(own, Dense), own.units_out, isinstance(own, Embedding))
        for name, own in maps.items()
    }
    unknown = UserError(f"{part.rule} reads e or target, and the number of classes is unknown", "classes=10")
    if part.binding.reads_phi and phi is None:
        raise UserError(f"{part.rule} reads phi, and no activation was given", "phi=jax.nn.relu")
    why = unsuitable(facts[OWN], part)
    if why:
        raise UserError(f"this layer cannot follow {part.rule}: {why}")
    trace = Trace(met, classes, unknown)
    assembly = assemble(facts, trace, dict.fromkeys(maps, part), [], dict.fromkeys(maps, phi), "jax.nn.relu")
    return Layer(part, Taught.at(OWN, assembly.places[OWN], maps, assembly.classes, sends))
