"""An activation is what a neuron does by itself: one that mixes a layer is refused, in both backends."""

from __future__ import annotations

import pytest

from ruledsl.errors import UserError


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_is_no_activation_of_a_neuron_in_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    from ruledsl_torch import convert

    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    with pytest.raises(UserError, match="mixes neurons"):
        convert(net, "oja", output="backprop", activations={"0": name}, example=torch.zeros(1, 4))
    assert type(net[0]) is torch.nn.Linear


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_is_no_activation_of_a_neuron_in_jax(name: str) -> None:
    nnx = pytest.importorskip("flax.nnx")
    from ruledsl_jax import convert

    net = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match="mixes neurons"):
        convert(net, "oja", output="backprop", activations={"layers.0": name})
