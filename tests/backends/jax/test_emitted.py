"""What is emitted is what the rule says: derivatives, next values and phases of every rule, on several layers."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
from geometries import GEOMETRIES, ConvGeometry, Geometry
from jax import numpy as jnp

import ruledsl
from ruledsl.emit.binding import COUNTERS, is_family
from ruledsl.library import check_file
from ruledsl.program import TASK
from ruledsl.rule import Rule
from ruledsl.verification.cases import BATCH, CLASSES, random_values, reference_layer
from ruledsl.verification.executor import python_names, reference_results, renamed
from ruledsl_jax import layouts, linear
from ruledsl_jax.executor import arguments_of, linear_map, tensor_from_jax
from ruledsl_jax.randomness import named
from ruledsl_jax.views import Facts

TESTS = Path(__file__).parents[2]
MORE = """
rule two_optimizers {
  weight B : post -> pre ~ normal(0, 1)
  state T : pre -> post = 0
  feedback send = B @ delta
  grad W = outer(delta, x)
  grad W = 0.5 * W - outer(u, x) by align
  grad B = outer(x, delta)
  grad B = B - W.T by align
  T <- 0.5 * T + outer(delta, x)
  phase dream { grad B = outer(x, delta) + B   T <- T + outer(u, x) }
  phase sleep { drive x = normal(0, 1)  W <- 0.5 * W + outer(u, x)  grad b = total(u) by align }
  optimizer align = sgd(lr = 0.1)
  schedule { each step : task, dream, sleep }
  locality { allow value(W)  allow pool(positions) }
}
rule moved_weights {
  fixed B : post -> pre ~ normal(0, 1)
  fresh N : pre -> post ~ normal(0, 0.1)
  state n : scalar = 1
  feedback send = B @ delta
  W <- W - 0.1 * outer(delta, x) + n * N
  b <- 0.5 * b
  n <- n / 2
  after step { W <- clip(W, -n, n)  b <- b + 1 }
}
rule only_dense {
  fixed D : post[k] -> pre ~ normal(0, 1)
  feedback send = sum(k, D[k] @ delta[k]) + 0 * x
  grad W = outer(delta, x) * (1 + sum(k, sq(delta[k])))
  locality {
    allow broadcast(delta[k])  allow modulate(delta[k])  allow pool(batch)  allow pool(units)  allow pool(positions)
  }
}
rule sizes_in_rare_places {
  fixed B : out -> pre ~ normal(0, 1)
  fresh N : post -> out ~ xavier()
  fresh D : post[k] -> pre ~ kaiming()
  state n : scalar = 1
  feedback send = B @ e + sum(k, D[k] @ delta[k])
  grad W = outer(delta, x) + outer(delta, x) * sq(N)
  n <- n / batch_size
  phase idle { drive x = normal(0, 1) }
  locality { allow broadcast(e)  allow broadcast(delta[k])  allow multiplex(pre -> post) }
}
rule nothing_is_sent { feedback send = 0  grad b = 1 }
"""


def compiled() -> dict[str, Rule]:
    """Every rule of the library, of the corpus, and of the text above."""
    found = [rule for rule in map(ruledsl.load, ruledsl.names()) if rule.kind == "rule"]
    for path in sorted((TESTS / "good").glob("*.rule")):
        found += [Rule(c) for c in check_file(path)[0] if c.equations is not None and not c.errors]
    found += [ruledsl.parse("rule " + text) for text in MORE.split("\nrule ")[1:]]
    return {rule.name: rule for rule in found if rule.kind == "rule"}


RULES = compiled()
SOME = [at for at in GEOMETRIES if str(at) in ("dense", "everything")]
rules = pytest.mark.parametrize("name", RULES)
LIBRARY = ruledsl.names()
ON_LAYERS = [
    pytest.param(name, at, marks=[pytest.mark.long] if name not in LIBRARY and str(at) == "dense" else [])
    for name in RULES
    for at in SOME
]
"""The rules of the library on all of these layers; what the others are to show, the convolution shows."""
on_layers = pytest.mark.parametrize("geometry", SOME, ids=str)


class OnOneLayer:
    """Random values of a layer, in JAX's layout and in the reference's, and what the reference says of them."""

    def __init__(self, name: str, geometry: Geometry) -> None:
        self.rule, self.geometry = RULES[name], geometry
        self.program = self.rule.compile("jax")
        self.module: Any = self.program.module
        self.names = python_names(self.program, self.rule.lowered)
        self.conv = isinstance(geometry, ConvGeometry)
        self.reference = random_values(self.rule.lowered, reference_layer(geometry), np.random.default_rng(0))
        self.values = arguments_of(self.program, geometry, renamed(self.reference, self.names), "float64")
        self.params = self.module.Params(*(self.tensor(n) for n in self.module.Params._fields))
        self.state = self.module.State(*(self.tensor(n) for n in self.module.State._fields))

    def tensor(self, name: str) -> Any:
        value = self.values[name]
        return tuple(value) if isinstance(value, list) else value

    def told(self, function: Any, **more: Any) -> dict[str, Any]:
        """What a function of the module asks for, by name."""
        known = {**self.values, "classes": CLASSES, "params": self.params, "state": self.state, **more}
        return {name: known[name] for name in inspect.signature(function).parameters}

    def native(self, name: str, value: Any) -> np.ndarray[Any, Any]:
        """A tensor, or an activity, in the reference's layout."""
        if name in ("x", "send"):
            return np.asarray(layouts.activity_from_jax(np.asarray(value)))
        return np.asarray(tensor_from_jax(self.geometry, self.program.tensor(name).space, np.asarray(value)))

    def said(self, phase: str, **changed: Any) -> dict[str, Any]:
        """What the reference says, by the names of the module."""
        results = reference_results(self.rule.lowered, phase, self.geometry, {**self.reference, **changed})
        words = {output: output.split(" ") for output in results}
        return {
            " ".join(self.names.get(word, word) for word in words[output]): value for output, value in results.items()
        }

    def check(self, found: Mapping[str, Any], said: Mapping[str, Any]) -> None:
        """All of it is equal, relative to the largest entry."""
        assert found.keys() == said.keys()
        for output, value in said.items():
            name = output.split(" ")[1] if " " in output else output
            wanted = np.broadcast_to(value, np.shape(self.native(name, found[output])))
            scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
            np.testing.assert_allclose(
                self.native(name, found[output]), wanted, rtol=0, atol=1e-9 * scale, err_msg=output
            )


@pytest.mark.parametrize(("name", "geometry"), ON_LAYERS, ids=str)
def test_derivatives_and_next_values_are_what_the_rule_says(name: str, geometry: Geometry) -> None:
    with jax.enable_x64(True):
        at = OnOneLayer(name, geometry)
        for own in at.program.binding.passes:
            if own.errors:
                follow(at, own)


def follow(at: OnOneLayer, own: Any) -> None:
    """One pass with errors, and what is stored after it."""
    module, suffix = at.module, "" if own.phase == TASK else f"_{own.phase}"
    apply = getattr(module, f"apply{suffix}")
    errors = [at.values["delta"]]
    errors += [at.values["e"]] * own.direct + [tuple(at.values["delta_k"])] * own.dense
    zeros = tuple(map(jnp.zeros_like, (errors[0], *errors[-1]))) if own.dense else ()
    fields = module.Beside._fields if hasattr(module, "Beside") else ()
    held = {o.receiver: at.tensor(o.target) for o in own.received}
    beside = module.Beside(*(held.get(field) for field in fields)) if fields else ()

    def applied(params: Any, state: Any, x: Any, beside: Any) -> Any:
        return apply(**at.told(apply, params=params, state=state, x=x, beside=beside, zeros=zeros))

    result, pull = jax.vjp(jax.jit(applied), at.params, at.state, at.values["x"], beside)
    to_params, to_state, sent, to_beside = pull(tuple(errors) if len(errors) > 1 else errors[0])
    np.testing.assert_allclose(result[0] if len(errors) > 1 else result, at.values["u"], atol=1e-10)
    found: dict[str, Any] = {"send": sent}
    for o in own.outputs:
        if o.kind == "grad":
            arrived = getattr(to_params, o.target) if o.own else getattr(to_beside, o.receiver)
            found[f"grad {o.target} by {o.optimizer}"] = arrived
        elif o.kind == "assign":
            beside_it = o.receiver in fields
            change = getattr(to_beside, o.receiver) if beside_it else getattr(to_state, o.target)
            found[f"next {o.target}"] = at.tensor(o.target) + change
    said = at.said(own.phase)
    if own.phase != TASK:
        said["send"] = at.said(TASK)["send"]
    later = {output for output in said if output.startswith("next ")} - found.keys()
    at.check(found, {output: value for output, value in said.items() if output not in later})

    names = [f"advance_{own.phase}", *(["advance"] if own.phase == TASK else [])]
    after = [stage.phase for stage in at.program.binding.after] if own.phase == TASK else []
    stored = [getattr(module, each) for each in names if hasattr(module, each)]
    assert stored or not (later or after)
    fresh = {tensor.name for tensor, _ in at.program.binding.draws}
    params, state = at.params, at.state
    for advance in stored:
        known = {"params": params, "state": state, "changes": to_state, "beside": to_beside, "key": jax.random.key(0)}
        params, state = advance(**at.told(advance, **known))
    values, back = dict(at.reference), {python: name for name, python in at.names.items()}
    for stage in ("", *after):
        results = said if not stage else at.said(stage, **values)
        for output, value in results.items():
            if output.startswith("next "):
                target = output.split(" ")[1]
                values[back.get(target, target)] = np.broadcast_to(
                    value, np.shape(at.reference[back.get(target, target)])
                )
    for tensor in at.program.tensors:
        if tensor.name not in fresh and not is_family(tensor):
            new = getattr(params if tensor.name in module.Params._fields else state, tensor.name)
            at.check({f"next {tensor.name}": new}, {f"next {tensor.name}": values[back.get(tensor.name, tensor.name)]})


@on_layers
@pytest.mark.parametrize(
    "name",
    [
        n
        for n, rule in RULES.items()
        if len(rule.compile("jax").binding.passes) > 1 or rule.compile("jax").binding.driven
    ],
)
def test_phases_are_what_the_rule_says(name: str, geometry: Geometry) -> None:
    with jax.enable_x64(True):
        at = OnOneLayer(name, geometry)
        binding = at.program.binding
        for own in (*binding.driven, *(each for each in binding.evoked if not each.errors)):
            function, key, changed = getattr(at.module, own.phase), jax.random.key(3), {}
            drive = getattr(own, "drive", None)
            if drive is not None:
                draw = getattr(at.module, drive.function)
                own_key = named(key, "x", own.phase)
                x = draw(**at.told(draw, shape=(BATCH, *at.values["layer"].pre_shape), key=own_key))
                u = at.values["layer"].apply(at.values["W"], x, at.values["b"])
                changed = {"x": at.native("x", x), "u": at.native("x", u), "y": np.tanh(at.native("x", u))}
            result = jax.jit(lambda key, f=function: f(**at.told(f, key=key, batch_size=BATCH)))(key)
            results = list(result) if type(result) is tuple else [result]
            if drive is None:
                np.testing.assert_allclose(results.pop(0), at.values["u"], atol=1e-10)
            found: dict[str, Any] = {}
            grads = [o for o in own.outputs if o.kind == "grad"]
            for optimizer in dict.fromkeys(o.optimizer for o in grads):
                gradients = results.pop(0)
                found |= {
                    f"grad {o.target} by {optimizer}": getattr(gradients, o.target)
                    for o in grads
                    if o.optimizer == optimizer
                }
            for part in results:
                before = at.params if isinstance(part, at.module.Params) else at.state
                for target, value in part._asdict().items():
                    if value is not getattr(before, target):
                        found[f"next {target}"] = value
            said = at.said(own.phase, **changed)
            at.check({output: found[output] for output in said}, said)


@rules
def test_first_values_have_their_shapes_and_a_layer_that_sends_to_nobody_learns(name: str) -> None:
    with jax.enable_x64(True):
        for geometry in SOME:
            at = OnOneLayer(name, geometry)
            layer = linear_map(geometry)
            downstream = [layer, None]
            init = at.module.init
            for sends in {True, "sends" not in inspect.signature(init).parameters}:
                given = at.told(
                    init, layer=layer, key=jax.random.key(0), downstream=downstream, W=None, b=None, sends=sends
                )
                params, state = init(**given)
                for made, wanted in ((params, at.params), (state, at.state)):
                    for field, value in made._asdict().items():
                        if value is not None and not is_family(at.program.tensor(field)):
                            assert value.shape == getattr(wanted, field).shape, field
                            assert value.dtype == params.W.dtype


class Told(dict[str, Any]):
    """The names of an example: what it leaves open are an input, keys, scalars, and what `jax.grad` has given."""

    def __missing__(self, name: str) -> Any:
        what, _, number = name.partition("_")
        if what == "key":
            return jax.random.key(int(number or 0))
        if what in ("changes", "beside"):
            made: Any = self["state_" + number]
            if what == "beside":
                outputs = Facts(self["binding"]).beside
                made = self["Beside"](*(getattr(self["params_" + number], o.target) for o in outputs.values()))
            return jax.tree.map(jnp.zeros_like, made)
        if name in COUNTERS:
            return 0.5
        raise KeyError(name)


@rules
def test_the_example_in_the_documentation_runs(name: str) -> None:
    """A network of two layers, or of three, with all its phases and what happens after a step."""
    program = RULES[name].compile("jax")
    text = ast.get_docstring(ast.parse(program.source)) or ""
    lines = [line.removeprefix("    ") for line in text.splitlines() if line.startswith("    ")]
    here = Told(vars(program.module), Dense=linear.Dense, jax=jax, binding=program.binding)
    here |= {"x": jnp.ones((32, 784)), "target": jax.nn.one_hot(jnp.arange(32) % 10, 10)}
    exec("\n".join(lines), {}, here)
    assert here["logits"].shape == (32, 10)
