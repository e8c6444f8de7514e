"""Any Flax NNX module learns by a rule after `convert`, in the user's own training loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("flax")

import jax
import optax
from backends.jax import rules
from flax import nnx
from jax import numpy as jnp

from ruledsl.errors import UserError
from ruledsl_jax import TAUGHT, advance, convert, observe

BATCH, CLASSES = 4, 3


class Network(nnx.Module):
    """A convolution with uneven SAME padding, a grouped one, normalisation, two dense layers in a list."""

    def __init__(self, seed: int = 0) -> None:
        rngs = nnx.Rngs(seed)
        self.stem = nnx.Conv(2, 4, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.groups = nnx.Conv(4, 4, (3, 2), padding="VALID", feature_group_count=2, use_bias=False, rngs=rngs)
        self.dense = nnx.List([nnx.Linear(36, 6, rngs=rngs), nnx.Linear(6, CLASSES, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.tanh(self.norm(self.stem(x)))
        x = jnp.tanh(self.groups(x)).reshape(x.shape[0], -1)
        return self.dense[1](jnp.tanh(self.dense[0](x)))  # type: ignore[no-any-return]


class Perceptron(nnx.Module):
    """Two dense layers, whose names are not in the order of the alphabet."""

    def __init__(self, seed: int = 0) -> None:
        rngs = nnx.Rngs(seed)
        self.zeroth = nnx.Linear(5, 6, rngs=rngs)
        self.after = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.after(jnp.tanh(self.zeroth(x)))  # type: ignore[no-any-return]


def images(seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(BATCH, 9, 8, 2)), jnp.float32)


def vectors(seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(BATCH, 5)), jnp.float32)


def labels() -> jax.Array:
    return jnp.arange(BATCH) % CLASSES


def loss(net: Any, x: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(net(x), labels()).mean()


def assert_same(a: Any, b: Any, **tolerance: float) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, **{"rtol": 1e-4, "atol": 1e-6} | tolerance)


def test_backprop_gives_the_gradients_of_the_plain_network() -> None:
    plain, taught = Network(), convert(Network(), rules.backprop)
    np.testing.assert_allclose(plain(images()), taught(images()), rtol=1e-5, atol=1e-6)
    assert_same(nnx.jit(nnx.grad(loss))(taught, images()), nnx.jit(nnx.grad(loss))(plain, images()))


def test_weights_keep_their_names_and_values() -> None:
    net = Perceptron()
    before = dict(nnx.to_flat_state(nnx.state(net, nnx.Param)))
    layer, kernel = net.zeroth, net.zeroth.kernel
    convert(net, rules.kolen_pollack)
    after = dict(nnx.to_flat_state(nnx.state(net, nnx.Param)))
    assert set(after) - set(before) == {("zeroth", "B"), ("after", "B")}
    for path, value in before.items():
        np.testing.assert_array_equal(after[path][...], value[...])
    assert net.zeroth is layer and net.zeroth.kernel is kernel
    assert isinstance(net.zeroth, nnx.Linear) and net.zeroth.out_features == 6


@pytest.mark.parametrize("name", rules.RULES)
def test_every_rule_lowers_the_loss(name: str) -> None:
    net = convert(Network(), rules.RULES[name], output=rules.backprop, example=images())
    optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(net: Any, optimizer: Any, x: jax.Array) -> Any:
        value, gradients = nnx.value_and_grad(loss)(net, x)
        optimizer.update(net, gradients)
        advance(net)
        return value

    losses = [float(step(net, optimizer, images())) for _ in range(25)]
    assert losses[-1] < 0.5 * losses[0]


def test_fixed_feedback_is_no_parameter() -> None:
    net = convert(Perceptron(), rules.feedback_alignment)
    assert not isinstance(net.after.B, nnx.Param)
    assert ("after", "B") not in dict(nnx.to_flat_state(nnx.grad(loss)(net, vectors())))


def test_direct_feedback_reaches_hidden_layers_from_the_output() -> None:
    net = convert(Perceptron(), rules.direct_feedback_alignment)
    x = vectors()
    gradients = nnx.jit(nnx.grad(loss))(net, x)
    hidden = jnp.tanh(x @ net.zeroth.kernel[...] + net.zeroth.bias[...])
    e = (jax.nn.softmax(hidden @ net.after.kernel[...] + net.after.bias[...]) - jax.nn.one_hot(labels(), 3)) / BATCH
    delta = (e @ net.after.B[...]) * (1 - hidden**2)
    np.testing.assert_allclose(gradients["zeroth"]["kernel"][...], x.T @ delta, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradients["after"]["kernel"][...], hidden.T @ e, rtol=1e-4, atol=1e-6)
    assert net.ruledsl.classes == CLASSES


def test_copies_and_checkpoints_keep_the_rule() -> None:
    net = convert(Perceptron(), rules.direct_feedback_alignment)
    copy = nnx.merge(*nnx.split(net))
    assert_same(nnx.grad(loss)(copy, vectors()), nnx.grad(loss)(net, vectors()))


def test_output_layer_follows_a_rule_of_its_own() -> None:
    net = convert(Perceptron(), rules.feedback_alignment, output=rules.backprop)
    assert hasattr(net.zeroth, "B") and not hasattr(net.after, "B")
    rehearsed = convert(Perceptron(), rules.feedback_alignment, output=rules.backprop, example=vectors())
    assert rehearsed.ruledsl.layers == ("zeroth", "after")


def test_rehearsal_leaves_no_trace() -> None:
    net = Network()
    before = nnx.state(net)
    convert(net, rules.backprop, example=images())
    np.testing.assert_array_equal(before["norm"]["mean"][...], net.norm.mean[...])
    assert net.ruledsl.layers == ("stem", "groups", "dense.0", "dense.1")


def test_maps_from_the_output_need_to_know_the_images() -> None:
    with pytest.raises(UserError, match="size of the images"):
        convert(Network(), rules.direct_feedback_alignment)
    net = convert(Network(), rules.direct_feedback_alignment, example=images())
    assert net.groups.B.shape == (CLASSES, 5, 4, 4)
    assert net.stem.B is None  # it has nobody to send an error to


def test_assigned_state_moves_with_advance() -> None:
    net = convert(Perceptron(), rules.trace)

    @nnx.jit
    def step(net: Any, x: jax.Array) -> None:
        advance(net, nnx.grad(loss, argnums=nnx.DiffState(0, TAUGHT))(net, x))

    plain = nnx.grad(loss)(Perceptron(), vectors())
    step(net, vectors())
    np.testing.assert_allclose(net.zeroth.T[...], plain["zeroth"]["kernel"][...], rtol=1e-4, atol=1e-6)
    step(net, vectors())
    np.testing.assert_allclose(net.zeroth.T[...], 1.5 * plain["zeroth"]["kernel"][...], rtol=1e-4, atol=1e-6)
    assert float(net.after.n[...]) == 2.0
    with pytest.raises(UserError, match="TAUGHT"):
        advance(net, nnx.grad(loss)(net, vectors()))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_stored_may_read_the_size_of_the_batch(dtype: Any) -> None:
    net = convert(nnx.Linear(5, CLASSES, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0)), rules.counted)
    observe(net, lr=0.5)

    @nnx.jit
    def step(net: Any, x: jax.Array) -> None:
        advance(net, nnx.grad(lambda net, x: net(x).sum(), argnums=nnx.DiffState(0, TAUGHT))(net, x))

    step(net, vectors())
    step(net, vectors()[:1])
    assert float(net.n[...]) == BATCH + 1 and float(net.m[...]) == 0.5
    assert net.n[...].dtype == net.m[...].dtype == dtype


def test_optimizer_leaves_assigned_tensors_alone() -> None:
    net = convert(Perceptron(), rules.trace)
    optimizer = nnx.Optimizer(net, optax.adam(0.1), wrt=nnx.Param)
    gradients = nnx.grad(loss, argnums=nnx.DiffState(0, TAUGHT))(net, vectors())
    optimizer.update(net, gradients)
    assert not np.any(net.zeroth.T[...])
    advance(net, gradients)
    assert np.any(net.zeroth.T[...])


def test_assigned_weights_move_with_advance_and_not_by_the_optimizer() -> None:
    net, plain = convert(Perceptron(), rules.moved), Perceptron()
    gradients = nnx.grad(loss, argnums=nnx.DiffState(0, TAUGHT))(net, vectors())
    assert not np.any(gradients["after"]["kernel"][...])
    advance(net, gradients)
    moved = plain.after.kernel[...] - 0.1 * nnx.grad(loss)(plain, vectors())["after"]["kernel"][...]
    np.testing.assert_allclose(net.after.kernel[...], moved, rtol=1e-4, atol=1e-6)


def test_second_optimizers_are_given_a_gradient_of_their_own() -> None:
    net = convert(Perceptron(), rules.two_optimizers)
    gradients = nnx.grad(loss, argnums=nnx.DiffState(0, TAUGHT))(net, vectors())
    np.testing.assert_allclose(gradients["after"]["B_by_align"][...], net.after.B[...], rtol=1e-6)
    np.testing.assert_allclose(gradients["after"]["B"][...], gradients["after"]["kernel"][...], rtol=1e-6)


class Embedded(nnx.Module):
    """Words through an embedding, a convolution along them, a transposed one, and a dense layer."""

    def __init__(self, padding: str = "SAME", step: int = 1) -> None:
        rngs = nnx.Rngs(0)
        self.words = nnx.Embed(11, 4, rngs=rngs)
        self.along = nnx.Conv(4, 6, 3, strides=step, padding=padding, rngs=rngs)
        self.back = nnx.ConvTranspose(6, 3, (4,), strides=step, padding=padding, rngs=rngs)
        self.read = nnx.Linear(3, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = jnp.tanh(self.back(jnp.tanh(self.along(self.words(x)))))
        return self.read(hidden.mean(1))  # type: ignore[no-any-return]


SHORT = [("SAME", 2), ("VALID", 3), ("SAME", 5)]
LONG = [(padding, step) for padding in ("SAME", "VALID") for step in (1, 2, 3, 5) if (padding, step) not in SHORT]


@pytest.mark.parametrize(("padding", "step"), [*SHORT, *(pytest.param(*both, marks=pytest.mark.long) for both in LONG)])
def test_every_kind_of_layer_learns_backprop_as_the_plain_network(padding: str, step: int) -> None:
    words = jnp.arange(BATCH * 8).reshape(BATCH, 8) % 11
    plain, taught = Embedded(padding, step), convert(Embedded(padding, step), rules.backprop, example=words)
    assert taught.ruledsl.layers == ("words", "along", "back", "read")
    gradient = nnx.jit(nnx.grad(loss))
    assert_same(gradient(taught, words), gradient(plain, words))


def test_an_embedding_does_not_follow_a_rule_that_reads_x_itself() -> None:
    with pytest.warns(UserWarning, match="its input is indices"):
        net = convert(Embedded(), "oja")
    assert net.ruledsl.layers == ("along", "back", "read")


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions_of_every_dimension_learn(axes: int) -> None:
    class Deep(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.conv = nnx.Conv(2, 4, (3,) * axes, strides=2, feature_group_count=2, rngs=rngs)
            self.up = nnx.ConvTranspose(4, 2, (2,) * axes, strides=2, padding=1, rngs=rngs)
            self.read = nnx.Linear(2, CLASSES, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.read(jnp.tanh(self.up(jnp.tanh(self.conv(x)))).reshape(BATCH, -1, 2).mean(1))  # type: ignore[no-any-return]

    x = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, *(7, 6, 5)[:axes], 2)), jnp.float32)
    plain, taught = Deep(), convert(Deep(), rules.backprop)
    gradient = nnx.jit(nnx.grad(loss))
    assert_same(gradient(taught, x), gradient(plain, x))
    kolen = convert(Deep(), rules.kolen_pollack, decay=0.0)
    gradients = gradient(kolen, x)
    assert_same(gradients["up"]["B"], gradients["up"]["kernel"])


def test_fresh_tensors_change_with_every_step() -> None:
    net = convert(Perceptron(), rules.fresh_signs, seed=3)
    twin = convert(Perceptron(), rules.fresh_signs, seed=3)
    drawn = [np.asarray(net.after.M[...])]
    for _ in range(2):
        nnx.jit(advance)(net)
        drawn.append(np.asarray(net.after.M[...]))
    assert not np.allclose(drawn[0], drawn[1]) and not np.allclose(drawn[1], drawn[2])
    np.testing.assert_array_equal(drawn[0], twin.after.M[...])
    assert not np.allclose(net.after.M[...], np.asarray(net.zeroth.M[...]).T[: net.after.M.shape[0], :CLASSES])


def test_target_is_observed() -> None:
    net = convert(Perceptron(), rules.direct_target)
    with pytest.raises(UserError, match="observe"):
        net(vectors())

    @nnx.jit
    def gradients(net: Any, x: jax.Array, target: jax.Array) -> Any:
        observe(net, target=target)
        return nnx.grad(loss)(net, x)

    found = gradients(net, vectors(), labels())
    hidden = jnp.tanh(vectors() @ net.zeroth.kernel[...])
    delta = -(jax.nn.one_hot(labels(), CLASSES) @ net.after.B[...]) / BATCH * (1 - hidden**2)
    np.testing.assert_allclose(found["zeroth"]["kernel"][...], vectors().T @ delta, rtol=1e-4, atol=1e-6)


def test_activation_and_clock_reach_the_rule() -> None:
    with pytest.raises(UserError, match="activations"):
        convert(Perceptron(), rules.gated)
    net = convert(Perceptron(), rules.gated, activations={"zeroth": "tanh", "after": lambda v: v})
    observe(net, lr=0.0)
    assert not np.any(nnx.grad(loss)(net, vectors())["zeroth"]["kernel"][...])
    observe(net, lr=1.0)
    assert np.any(nnx.grad(loss)(net, vectors())["zeroth"]["kernel"][...])
    with pytest.raises(UserError, match="zeroth"):
        convert(Perceptron(), rules.gated, activations={"zerot": "tanh"})


def test_what_cannot_follow_a_rule_is_listed() -> None:
    class Mixed(nnx.Module):
        def __init__(self) -> None:
            self.general = nnx.Einsum("ab,bc->ac", (10, 5), rngs=nnx.Rngs(0))
            self.causal = nnx.Conv(5, 5, (3,), padding="CAUSAL", rngs=nnx.Rngs(0))
            self.read = nnx.Linear(5, 2, rngs=nnx.Rngs(0))

    net = Mixed()
    with pytest.warns(UserWarning, match="Einsum is no Linear, LinearGeneral, Conv, ConvTranspose or Embed"):
        convert(net, rules.backprop)
    assert [name for name, _ in net.ruledsl.skipped] == ["general", "causal"]
    assert net.ruledsl.layers == ("read",)


def test_converting_twice_or_nothing_is_an_error() -> None:
    net = convert(Perceptron(), rules.backprop)
    with pytest.raises(UserError, match="only once"):
        convert(net, rules.backprop)
    with pytest.raises(UserError, match="no Linear, LinearGeneral, Conv, ConvTranspose or Embed"):
        convert(nnx.BatchNorm(3, rngs=nnx.Rngs(0)), rules.backprop)
    with pytest.raises(UserError, match="not converted"):
        advance(Perceptron())


def test_failed_conversion_changes_nothing() -> None:
    net = Network()
    with pytest.raises(UserError):
        convert(net, rules.direct_feedback_alignment)
    assert type(net.dense[0]) is nnx.Linear and not hasattr(net.dense[0], "B")


def test_computing_in_half_precision_keeps_parameters_in_full() -> None:
    net = nnx.Linear(5, CLASSES, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    convert(net, rules.kolen_pollack)
    assert net(vectors()).dtype == jnp.bfloat16
    gradients = nnx.grad(lambda net, x: net(x).astype(jnp.float32).sum())(net, vectors())
    assert gradients["kernel"].dtype == jnp.float32
