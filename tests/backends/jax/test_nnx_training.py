"""What a converted NNX network learns in a loop of its user's is what the engine teaches the same network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flax")

import jax
import optax
from backends.both import digits
from flax import nnx
from jax import Array
from jax import numpy as jnp

import ruledsl
import ruledsl_jax
from ruledsl.architectures import Architecture
from ruledsl.architectures.components import Conv, Dense, GlobalAveragePool
from ruledsl.errors import UserError
from ruledsl.rule import Rule
from ruledsl.training import Config
from ruledsl.training.loop import steps_of
from ruledsl.training.preparation import resolved
from ruledsl_jax import TAUGHT, movers
from ruledsl_jax.engine import Engine
from ruledsl_jax.layouts import activity_to_jax

pytestmark = pytest.mark.filterwarnings("ignore::ruledsl.errors.RuleWarning")
RULES = [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule"]
SEED, BATCH, RATE = 1, 16, 0.01
NETWORK = Architecture(
    "small",
    (1, 8, 8),
    10,
    (
        Conv("conv1", 4, 3, "relu", stride=2, padding=1),
        Conv("conv2", 6, 3, "tanh", groups=2, bias=False),
        GlobalAveragePool(),
        Dense("fc1", 8, "relu"),
        Dense("fc2", 10),
    ),
)
PHI = {"conv1": "relu", "conv2": "tanh", "fc1": "relu"}


class Network(nnx.Module):
    """The same."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(1, 4, (3, 3), strides=2, padding=1, rngs=rngs)
        self.conv2 = nnx.Conv(4, 6, (3, 3), padding=0, feature_group_count=2, use_bias=False, rngs=rngs)
        self.fc1 = nnx.Linear(6, 8, rngs=rngs)
        self.fc2 = nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = jnp.tanh(self.conv2(jax.nn.relu(self.conv1(x)))).mean((1, 2))
        return self.fc2(jax.nn.relu(self.fc1(x)))  # type: ignore[no-any-return]


def loss(net: Any, x: Array, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(net(x), labels).mean()


@nnx.jit
def one_pass(net: Any, optimizers: Any, x: Array, labels: Array) -> Array:
    """A pass with everything that belongs to it; the last of a step ends the step."""
    found, gradients = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, TAUGHT))(net, x, labels)
    optimizers.update(net, gradients)
    ruledsl_jax.advance(net, gradients, optimizers)
    return found


@nnx.jit
def idle(net: Any, optimizers: Any) -> None:
    ruledsl_jax.advance(net, None, optimizers)


def same(rule: str | Rule, epochs: int = 2, **settings: Any) -> None:
    """Train both, and compare losses and everything that they have learnt."""
    loaded = ruledsl.load(rule) if isinstance(rule, str) else rule
    program, dataset = loaded.compile("jax"), digits(64)
    epochs += int(sum(count for count, _ in program.schedule.first))
    sgd = {"name": "sgd", "lr": RATE, "momentum": 0.9}
    values = {"seed": SEED, "backend": "jax", "epochs": epochs, "data": {"batch_size": BATCH}, "optimizer": sgd}
    config = resolved(Config.model_validate(values), dataset, (program, None))
    engine = Engine()
    engine.init(
        NETWORK, program, None, config, [ruledsl.load(c).compile("jax") for c in settings.get("constraints", ())]
    )
    net = Network()
    for path in ("conv1", "conv2", "fc1", "fc2"):
        layer, params = getattr(net, path), engine.carry.params[path]
        layer.kernel[...] = params.W
        if params.b is not None:
            layer.bias[...] = params.b
    example = jnp.zeros((BATCH, 8, 8, 1))
    used = dict(PHI) if "phi" in program.binding.reads else {}
    net = ruledsl_jax.convert(net, program, example=example, seed=SEED, activations=used, **settings)
    chosen = config.optimizers.items()
    others = {name: movers.adam(one.lr, one.betas, one.eps, 0.0) for name, one in chosen if one.name == "adam"}
    optimizers = ruledsl_jax.optimizers(net, task=movers.sgd(RATE, 0.9, False, 0.0), **others)
    for epoch in range(epochs):
        run = steps_of(dataset, config, program.schedule, epoch)
        scores = list(engine.steps(run))
        for batch, clock, score in zip(run.batches(), run.clocks, scores, strict=True):
            x, labels = jnp.asarray(activity_to_jax(batch.images)), jnp.asarray(batch.labels)
            told = {"epoch": clock.epoch, "progress": clock.progress, "lr": RATE}
            ruledsl_jax.observe(net, target=labels, **told)
            for _ in range(max(1, len(net.ruledsl.waiting))):
                if net.ruledsl.sees_batch:
                    found = one_pass(net, optimizers, x, labels)
                else:
                    idle(net, optimizers)
            if score is not None:
                assert float(found) == pytest.approx(score.loss, rel=1e-5)
    for path in engine.learner.layers:
        held = {**engine.carry.params[path]._asdict(), **engine.carry.state[path]._asdict()}
        layer = getattr(net, path)
        for name, value in held.items():
            for one, other in zip(jax.tree.leaves(layer.value(name)), jax.tree.leaves(value), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=f"{path} {name}")


OFTEN = {
    *(
        "activation_alignment",
        "backprop_alignment",
        "brsf_p",
        "dense_feedback_alignment",
        "direct_kolen_pollack",
        "drtp",
    ),
    *("kolen_pollack", "oja", "usf_sn", "weight_mirror", "weight_mirror_ad"),
}
"""One rule of each kind; the others take as long again."""


@pytest.mark.parametrize(
    "rule", [pytest.param(name, marks=[] if name in OFTEN else [pytest.mark.long]) for name in RULES]
)
def test_every_rule_learns_in_a_users_loop_what_the_engine_teaches(rule: str) -> None:
    same(rule)


# --- transformations ---


def ready(rule: str, **options: Any) -> tuple[Any, Array, Array]:
    """A converted network, a batch and its labels."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(BATCH, 8, 8, 1)), jnp.float32)
    return ruledsl_jax.convert(Network(), rule, example=x, **options), x, jnp.arange(BATCH) % 10


KINDS = ["feedback_alignment", "kolen_pollack", "direct_feedback_alignment", "dense_feedback_alignment"]


@pytest.mark.parametrize("rule", KINDS)
def test_a_network_may_be_merged_inside_of_what_is_differentiated(rule: str) -> None:
    net, x, labels = ready(rule)
    expected = nnx.grad(loss)(net, x, labels)
    graph, params, rest = nnx.split(net, nnx.Param, ...)

    def step(params: Any, rest: Any, x: Array, labels: Array) -> Any:
        return jax.grad(lambda params: loss(nnx.merge(graph, params, rest), x, labels))(params)

    assert_same(step(params, rest, x, labels), expected)
    assert_same(jax.jit(step)(params, rest, x, labels), expected)
    exported = jax.export.export(
        jax.jit(lambda *given: jax.tree.leaves(step(*given))), platforms=("cpu", "cuda", "tpu")
    )
    found = exported(params, rest, x, labels).call(params, rest, x, labels)
    assert_same(found, jax.tree.leaves(expected))


@pytest.mark.parametrize("rule", KINDS)
def test_a_network_may_be_closed_over_inside_of_what_is_differentiated(rule: str) -> None:
    net, x, labels = ready(rule)
    change = jax.grad(lambda x: loss(net, x, labels))(x)
    assert change.shape == x.shape
    per_example = jax.vmap(lambda x, label: loss(net, x[None], label[None]))(x, labels)
    assert float(per_example.mean()) == pytest.approx(float(loss(net, x, labels)), rel=1e-5)


@pytest.mark.parametrize("rule", KINDS)
def test_a_batch_may_be_spread_over_devices(rule: str) -> None:
    net, x, labels = ready(rule)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    found = nnx.jit(nnx.grad(loss))(net, jax.device_put(x, spread), jax.device_put(labels, spread))
    assert_same(found, nnx.grad(loss)(net, x, labels))


class Rematerialised(Network):
    """The same network, of which two layers are computed twice."""

    def __call__(self, x: Array) -> Array:
        x = jax.nn.relu(nnx.remat(lambda layer, x: layer(x))(self.conv1, x))
        x = jnp.tanh(self.conv2(x)).mean((1, 2))
        return self.fc2(jax.nn.relu(nnx.remat(lambda layer, x: layer(x))(self.fc1, x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("rule", ["feedback_alignment", "direct_feedback_alignment", "drtp"])
def test_layers_may_be_rematerialised(rule: str) -> None:
    plain, x, labels = ready(rule)
    net = ruledsl_jax.convert(Rematerialised(), rule, example=x)
    for each in (plain, net):
        ruledsl_jax.observe(each, target=labels)
    names = set(dict(nnx.to_flat_state(nnx.state(net))))
    assert_same(nnx.jit(nnx.grad(loss))(net, x, labels), nnx.grad(loss)(plain, x, labels))
    assert set(dict(nnx.to_flat_state(nnx.state(net)))) == names


def test_errors_for_every_neuron_do_not_pass_a_transformation_inside_the_network() -> None:
    _, x, labels = ready("backprop")
    net = ruledsl_jax.convert(Rematerialised(), "dense_feedback_alignment", example=x)
    with pytest.raises(UserError, match="ran under a transformation inside the network"):
        nnx.grad(loss)(net, x, labels)


class Stacked(nnx.Module):
    """Two layers around a stack of three, each of them converted before it is stacked or not."""

    def __init__(self, rule: str | None = None) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(5, 6, rngs=rngs)
        self.last = nnx.Linear(6, 10, rngs=rngs)

        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def made(rngs: nnx.Rngs) -> nnx.Linear:
            return nnx.Linear(6, 6, rngs=rngs)

        self.stack = made(rngs)

    def __call__(self, x: Array) -> Array:
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)  # type: ignore[untyped-decorator]
        def through(layer: nnx.Linear, x: Array) -> Array:
            return jnp.tanh(layer(x))

        return self.last(through(self.stack, jnp.tanh(self.first(x))))  # type: ignore[no-any-return]


def test_stacked_layers_learn_by_backpropagation_and_are_told_of() -> None:
    x, labels = jnp.ones((4, 5)), jnp.arange(4)
    with pytest.warns(ruledsl.errors.RuleWarning, match="stack: it is a stack of 3 layers"):
        net = ruledsl_jax.convert(Stacked(), "backprop")
    assert_same(nnx.grad(loss)(net, x, labels), nnx.grad(loss)(Stacked(), x, labels))


@pytest.mark.parametrize("rule", KINDS)
def test_steps_may_be_scanned(rule: str) -> None:
    net, x, labels = ready(rule)
    other, _, _ = ready(rule)
    ours, theirs = (ruledsl_jax.optimizers(each, task=optax.adam(0.01)) for each in (net, other))

    @nnx.scan(in_axes=(nnx.Carry, None, None, 0), out_axes=(nnx.Carry, 0))  # type: ignore[untyped-decorator]
    def run(both: Any, x: Array, labels: Array, _: Array) -> Any:
        return both, one_pass(*both, x, labels)

    found = nnx.jit(run)((net, ours), x, labels, jnp.arange(3))[1]
    np.testing.assert_allclose(found, [one_pass(other, theirs, x, labels) for _ in range(3)], rtol=1e-4)


def test_checkpoints_are_states() -> None:
    net, x, labels = ready("weight_mirror_ad")
    optimizers = ruledsl_jax.optimizers(net, task=optax.adam(0.01))
    one_pass(net, optimizers, x, labels)
    kept = [nnx.to_pure_dict(nnx.state(each)) for each in (net, optimizers)]
    record = net.ruledsl
    later = [_step(net, optimizers, x, labels) for _ in range(3)]
    resumed, _, _ = ready("weight_mirror_ad", seed=5)
    theirs = ruledsl_jax.optimizers(resumed, task=optax.adam(0.01))
    for each, values in zip((resumed, theirs), kept, strict=True):
        state = nnx.state(each)
        nnx.replace_by_pure_dict(state, values)
        nnx.update(each, state)
    resumed.ruledsl = record
    resumed_key = {name: getattr(resumed, name).following.key for name in ("conv1", "fc2")}
    assert resumed_key["fc2"] == (5, "fc2")  # the seed of draws in a step is that of convert
    found = [_step(resumed, theirs, x, labels) for _ in range(1)]
    assert found[0] == pytest.approx(later[0], rel=1e-5)


def _step(net: Any, optimizers: Any, x: Array, labels: Array) -> float:
    if net.ruledsl.sees_batch:
        return float(one_pass(net, optimizers, x, labels))
    idle(net, optimizers)
    return 0.0


def assert_same(a: Any, b: Any) -> None:
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


# --- optimizers ---


@pytest.mark.parametrize("rule", ["kolen_pollack", "feedback_alignment"])
def test_what_counts_once_a_step_does_so_over_micro_batches(rule: str) -> None:
    whole, x, labels = ready(rule)
    parts, _, _ = ready(rule)
    one = nnx.Optimizer(whole, optax.sgd(0.1), wrt=nnx.Param)
    many = nnx.Optimizer(parts, optax.MultiSteps(optax.sgd(0.1), 4), wrt=nnx.Param)  # type: ignore[arg-type]
    one.update(whole, nnx.grad(loss)(whole, x, labels))
    for start in range(0, BATCH, 4):
        many.update(parts, nnx.grad(loss)(parts, x[start : start + 4], labels[start : start + 4]))
    assert_same(nnx.state(parts, nnx.Param), nnx.state(whole, nnx.Param))


TWO = """rule two_optimizers {
  weight B : post -> pre ~ normal(0, 1)
  feedback send = B @ delta
  optimizer align = sgd(lr = 0.5)
  grad B = outer(x, delta)   grad B = B by align
}"""


def test_each_optimizer_is_given_its_own_gradient() -> None:
    x, labels = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32), jnp.arange(4) % 3
    rngs = nnx.Rngs(0)
    layers = [nnx.Linear(5, 6, rngs=rngs), jnp.tanh, nnx.Linear(6, 3, rngs=rngs)]
    net = ruledsl_jax.convert(nnx.Sequential(*layers), ruledsl.parse(TWO), example=x)
    optimizers = ruledsl_jax.optimizers(net, task=optax.sgd(0.0))
    before = np.asarray(layers[2].B[...])
    optimizers.update(net, nnx.grad(loss, argnums=nnx.DiffState(0, TAUGHT))(net, x, labels))
    np.testing.assert_allclose(layers[2].B[...], 0.5 * before, rtol=1e-5)
    with pytest.raises(UserError, match=r"no gradient was given of layers.2.B_by_align"):
        optimizers.update(net, nnx.grad(loss)(net, x, labels))


def test_optimizers_of_the_library_move_a_network() -> None:
    net, x, labels = ready("feedback_alignment")
    optimizers = ruledsl_jax.optimizers(net, task=ruledsl_jax.optimizer("manhattan_1", 0.001))
    before = np.asarray(net.fc2.kernel[...])
    gradients = nnx.grad(loss, argnums=nnx.DiffState(0, TAUGHT))(net, x, labels)
    optimizers.update(net, gradients)
    moved = np.abs(np.asarray(net.fc2.kernel[...]) - before)
    np.testing.assert_allclose(moved[moved > 0], 0.001, rtol=1e-3)
    assert (moved > 0).mean() > 0.7  # a neuron that is silent teaches nothing


def test_wrong_optimizers_are_messages() -> None:
    net, x, labels = ready("weight_mirror_ad")
    with pytest.raises(UserError, match="no rule of this network names an optimizer `alin`"):
        ruledsl_jax.optimizers(net, task=optax.sgd(0.1), alin=optax.sgd(0.1))
    with pytest.raises(UserError, match="which is no transformation of optax"):
        ruledsl_jax.optimizers(net, task=0.1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="was not converted"):
        ruledsl_jax.optimizers(Network(), task=optax.sgd(0.1))
    gradients = nnx.grad(loss, argnums=nnx.DiffState(0, TAUGHT))(net, x, labels)
    ruledsl_jax.advance(net, gradients)
    assert not net.ruledsl.sees_batch
    with pytest.raises(UserError, match="in the phase align, and nobody does so"):
        ruledsl_jax.advance(net)


# --- choices, printing, the way back ---


def test_layers_get_rules_by_their_names() -> None:
    rules = {"conv*": "feedback_alignment", "fc1": ("kolen_pollack", {"decay": 0.25}), "fc2": None}
    net, x, labels = ready("backprop", rules=rules)
    followed = [getattr(net, name) for name in ("conv1", "conv2", "fc1")]
    assert [repr(layer.following) for layer in followed] == [
        "feedback_alignment",
        "feedback_alignment",
        "kolen_pollack(decay=0.25)",
    ]
    assert type(net.fc2) is nnx.Linear
    assert nnx.grad(loss)(net, x, labels)["fc2"]["kernel"][...].any()
    with pytest.raises(UserError, match=r"'convv\*'"):
        ready("backprop", rules={"convv*": "usf"})


def test_first_values_are_those_of_every_backend() -> None:
    torch = pytest.importorskip("torch")
    ruledsl_torch = pytest.importorskip("ruledsl_torch")
    from ruledsl_jax import layouts

    net, _, _ = ready("direct_feedback_alignment", seed=4)
    theirs = torch.nn.ModuleDict(
        {
            "conv1": torch.nn.Conv2d(1, 4, 3, 2, 1),
            "conv2": torch.nn.Conv2d(4, 6, 3, groups=2, bias=False),
            "fc1": torch.nn.Linear(6, 8),
            "fc2": torch.nn.Linear(8, 10),
        }
    )

    class Same(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            for name, layer in theirs.items():
                setattr(self, name, layer)

        def forward(self, x: Any) -> Any:
            x = self.conv2(self.conv1(x).relu()).tanh().mean((2, 3))
            return self.fc2(self.fc1(x).relu())

    other = ruledsl_torch.convert(Same(), "direct_feedback_alignment", example=torch.zeros(2, 1, 8, 8), seed=4)
    np.testing.assert_allclose(net.fc1.B[...], other.fc1.B.numpy(), rtol=1e-6)
    turned = layouts.broadcast_map_to_jax(other.conv2.B.numpy(), 3)
    np.testing.assert_allclose(net.conv2.B[...], turned, rtol=1e-6)


def test_a_printed_network_names_the_rules() -> None:
    net, _, _ = ready("kolen_pollack", rules={"fc2": "backprop"}, constraints=["constant_norm"])
    assert "following=kolen_pollack(decay=0.0001)" in str(net)
    shown = str(net.ruledsl)
    lines = shown.splitlines()
    assert lines[0].split() == ["layer", "kind", "rule", "part", "parameters", "learns"]
    assert lines[1].split() == ["conv1", "Conv", "kolen_pollack", "first", "decay", "=", "0.0001", "W,", "B,", "b"]
    assert lines[4].split() == ["fc2", "Linear", "backprop", "output", "W,", "b"]
    assert (
        "after every step: constant_norm" in shown
        and "ledger: nonlocal" in shown
        and "  kolen_pollack (" in shown
        and "constraint constant_norm: nonlocal" in shown
    )
    ready_phases, _, _ = ready("weight_mirror")
    assert "phases: 2 epochs mirror, then each step task, mirror; in this step: task, mirror" in str(
        ready_phases.ruledsl
    )


@pytest.mark.parametrize("rule", ["kolen_pollack", "direct_feedback_alignment", "drtp", "weight_mirror_ad", "brsf"])
def test_the_way_back_leaves_the_plain_network(rule: str) -> None:
    plain, net = Network(), Network()
    kernel, names, structure = net.fc1.kernel, set(vars(net.fc1)), nnx.split(net)[0]
    x, labels = ready("backprop")[1:]
    ruledsl_jax.convert(net, rule, example=x, constraints=["constant_norm"])
    ruledsl_jax.observe(net, target=labels, **({"decay": 0.5} if rule == "kolen_pollack" else {}))
    assert ruledsl_jax.unconvert(net) is net
    assert type(net) is Network and type(net.fc1) is nnx.Linear and type(net.conv1) is nnx.Conv
    assert set(vars(net.fc1)) == names and not hasattr(net, "ruledsl")
    assert nnx.split(net)[0] == structure
    assert_same(nnx.grad(loss)(net, x, labels), nnx.grad(loss)(plain, x, labels))
    assert kernel is net.fc1.kernel
    with pytest.raises(UserError, match="was not converted"):
        ruledsl_jax.unconvert(net)


@pytest.mark.parametrize("rule", ["constant_norm", "frozen_signs"])
def test_constraints_hold_after_every_step(rule: str) -> None:
    same("feedback_alignment", constraints=[rule])


def test_parameters_may_change() -> None:
    net, x, labels = ready("kolen_pollack", decay=0.0)
    plain, _, _ = ready("kolen_pollack", decay=0.5)
    ruledsl_jax.observe(net, decay=0.5)
    assert_same(nnx.grad(loss)(net, x, labels), nnx.grad(loss)(plain, x, labels))


# --- attention ---


class Attending(nnx.Module):
    """One block of attention over words."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.attention = nnx.MultiHeadAttention(2, 6, 8, decode=False, rngs=rngs)
        self.read = nnx.Linear(6, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.read(self.attention(x).mean(1))  # type: ignore[no-any-return]


def test_the_projections_of_attention_follow_the_rule() -> None:
    x, labels = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 6)), jnp.float32), jnp.arange(4)
    net = ruledsl_jax.convert(Attending(), "backprop", example=x)
    projections = {f"attention.{name}" for name in ("query", "key", "value", "out")}
    assert set(net.ruledsl.layers) == projections | {"read"}
    assert_same(nnx.grad(loss)(net, x, labels), nnx.grad(loss)(Attending(), x, labels))
    other = ruledsl_jax.convert(Attending(), "kolen_pollack", example=x, decay=0.0)
    gradients = nnx.grad(loss)(other, x, labels)
    projection = gradients["attention"]["out"]
    np.testing.assert_allclose(projection["B"][...], projection["kernel"][...].reshape(8, 6), rtol=1e-5)
    assert other.attention.out.B.shape == (8, 6) and other.attention.query.B is None


# --- bad calls ---


def test_wrong_calls_are_messages() -> None:
    wrong: list[tuple[str, Any]] = [
        ("convert was given no rule", lambda: ruledsl_jax.convert(Network(), None)),
        ("is a class, and convert changes a network", lambda: ruledsl_jax.convert(Network, "usf")),  # type: ignore[type-var]
        ("an nnx.Module, and <lambda> is none", lambda: ruledsl_jax.convert(lambda x: x, "usf")),  # type: ignore[type-var]
        ("a rule was expected, and not the layer", lambda: ruledsl_jax.convert(Network(), Network().fc1)),  # type: ignore[arg-type]
        ("activations names 'fc3'", lambda: ruledsl_jax.convert(Network(), "usf", activations={"fc3": "relu"})),
        (
            "jax.nn has no activation 'rellu'",
            lambda: ruledsl_jax.convert(Network(), "usf", activations={"fc1": "rellu"}),
        ),
        (
            "the example does not go through",
            lambda: ruledsl_jax.convert(Network(), "usf", example=jnp.zeros((BATCH, 8, 8, 3))),
        ),
        ("kolen_pollack has no parameter `dekay`", lambda: ruledsl_jax.convert(Network(), "kolen_pollack", dekay=0.1)),
        ("seed is 0.5", lambda: ruledsl_jax.convert(Network(), "usf", seed=0.5)),  # type: ignore[arg-type]
        ("convert has no argument `exampel`", lambda: ruledsl_jax.convert(Network(), "usf", exampel="x")),  # type: ignore[arg-type]
        ("no learning rule by itself|is no learning rule", lambda: ruledsl_jax.convert(Network(), "constant_norm")),
    ]
    for message, call in wrong:
        with pytest.raises(UserError, match=message):
            call()


class Twice(nnx.Module):
    """A network that runs a layer twice."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.again = nnx.Linear(5, 5, rngs=rngs)
        self.read = nnx.Linear(5, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.read(jnp.tanh(self.again(jnp.tanh(self.again(x)))))  # type: ignore[no-any-return]


def test_a_layer_that_runs_twice_adds_up_or_is_refused() -> None:
    x, labels = jnp.ones((4, 5)), jnp.arange(4)
    net = ruledsl_jax.convert(Twice(), "backprop", example=x)
    assert_same(nnx.grad(loss)(net, x, labels), nnx.grad(loss)(Twice(), x, labels))
    for rule, why in (
        ("kolen_pollack", "counts once a step, and again runs 2 times"),
        ("dense_feedback_alignment", "2 times"),
    ):
        with pytest.raises(UserError, match=why):
            ruledsl_jax.convert(Twice(), rule, example=x)


def test_an_example_is_needed_where_inputs_are_drawn() -> None:
    with pytest.raises(UserError, match="weight_mirror drives every layer"):
        ruledsl_jax.convert(nnx.Sequential(nnx.Linear(5, 3, rngs=nnx.Rngs(0))), "weight_mirror")


def test_the_epoch_of_first_phases_is_a_number_of_python() -> None:
    net, _, _ = ready("weight_mirror")
    assert net.ruledsl.phases == ("task", "mirror")
    ruledsl_jax.observe(net, epoch=0)
    assert net.ruledsl.phases == ("mirror",) and not net.ruledsl.sees_batch
    ruledsl_jax.observe(net, epoch=2)
    assert net.ruledsl.sees_batch
    with pytest.raises(UserError, match="outside of nnx"):
        nnx.jit(lambda net, epoch: ruledsl_jax.observe(net, epoch=epoch))(net, 1.0)


def test_rules_that_do_not_follow_the_loss_are_warned_of() -> None:
    with pytest.warns(ruledsl.errors.RuleWarning, match="drtp does not follow the scale of the loss"):
        ready("drtp")


@pytest.mark.parametrize("rule", ["weight_mirror_ad", "brsf_p"])
def test_orbax_keeps_a_network(rule: str, tmp_path: Path) -> None:
    checkpoint = pytest.importorskip("orbax.checkpoint")
    net, x, labels = ready(rule)
    optimizers = ruledsl_jax.optimizers(net, task=optax.adam(0.01))
    one_pass(net, optimizers, x, labels)
    with checkpoint.StandardCheckpointer() as keeper:
        keeper.save(tmp_path / "net", nnx.to_pure_dict(nnx.state(net)))
        keeper.save(tmp_path / "moments", nnx.to_pure_dict(nnx.state(optimizers)))
    other, _, _ = ready(rule)
    moments = ruledsl_jax.optimizers(other, task=optax.adam(0.01))
    with checkpoint.StandardCheckpointer() as keeper:
        for each, name in ((other, "net"), (moments, "moments")):
            state = nnx.state(each)
            nnx.replace_by_pure_dict(state, keeper.restore(tmp_path / name, nnx.to_pure_dict(state)))
            nnx.update(each, state)
    other.ruledsl = net.ruledsl
    for _ in range(3):
        assert _step(net, optimizers, x, labels) == _step(other, moments, x, labels)
    for one, two in zip(jax.tree.leaves(nnx.state(net)), jax.tree.leaves(nnx.state(other)), strict=True):
        np.testing.assert_array_equal(one, two)
