"""Both backends begin with the same numbers: drawn on the host, found by seed, layer and name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("torch")

import jax
import torch
from torch import nn

import ruledsl
import ruledsl_torch
from ruledsl.emit.binding import is_family
from ruledsl.program import Program, Tensor
from ruledsl.streams import Streams
from ruledsl_jax import layouts
from ruledsl_jax.host import HostStreams, host_streams
from ruledsl_jax.linear import Convolution, Dense
from ruledsl_torch.views import attribute

GOOD = Path(__file__).parent.parent / "good"
RULES = {name: ruledsl.load(name) for name in ruledsl.names()}
RULES |= {name: ruledsl.load(GOOD / f"{name}.rule") for name in ("distributions", "names", "initial_values")}
NAMES = [name for name, rule in RULES.items() if rule.kind == "rule"]
SEED, CLASSES = 7, 3
LAYERS = {
    "0": Convolution(2, 4, (3, 3), (9, 8), (2, 2), (1, 1), groups=2),
    "2": Convolution(4, 6, (3, 2), (5, 4), groups=2),
    "4": Dense(6 * 3 * 3, 5),
    "6": Dense(5, CLASSES),
}
"""The linear maps of the network below, in the words of JAX."""


def network() -> nn.Sequential:
    """Strided and grouped convolutions, and dense layers."""
    convs = nn.Conv2d(2, 4, 3, 2, 1, groups=2), nn.ReLU(), nn.Conv2d(4, 6, (3, 2), groups=2)
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(54, 5), nn.ReLU(), nn.Linear(5, CLASSES))


def converted(rule: Any, **options: Any) -> nn.Module:
    """The network under a rule, such that its first layer sends too."""
    x = torch.zeros(2, 2, 9, 8, requires_grad=True)
    names = dict.fromkeys(LAYERS, "relu")
    return ruledsl_torch.convert(network(), rule, example=x, activations=names, seed=SEED, **options)


def streams(path: str, program: Program, seed: int = SEED) -> HostStreams:
    """Of a layer of the network."""
    below = dict([*LAYERS.items()][[*LAYERS].index(path) + 1 :])
    return host_streams(Streams(seed, path), program, LAYERS[path], below)


def called(function: Any, **known: Any) -> Any:
    """A function of a module, with those of its arguments that it has."""
    known |= {"classes": CLASSES, "phi": jax.nn.relu}
    return function(**{name: known[name] for name in inspect.signature(function).parameters if name in known})


def in_jax(layer: nn.Module, tensor: Tensor, path: str) -> Any:
    """A tensor of a layer of PyTorch, in the layout of JAX."""
    own_axes = len(LAYERS[path].pre_shape)
    if is_family(tensor):
        values = [getattr(layer, f"{tensor.name}_{k}") for k in range(len(layer.downstream))]  # type: ignore[arg-type]
        return [layouts.tensor_to_jax(tensor.space, value.detach().numpy(), own_axes) for value in values]
    value = getattr(layer, attribute(tensor.name))
    return layouts.tensor_to_jax(tensor.space, value.detach().numpy(), own_axes)


def made(path: str, layer: nn.Module, program: Program) -> dict[str, Any]:
    """What `init` of JAX makes, for the weights of a layer of PyTorch."""
    downstream = [LAYERS[other] for other in [*LAYERS][[*LAYERS].index(path) + 1 :]]
    W, b = (in_jax(layer, program.tensor(name), path) for name in ("W", "b"))
    given = {"layer": LAYERS[path], "key": streams(path, program), "downstream": downstream, "W": W, "b": b}
    params, state = called(program.module.init, **given)
    return params._asdict() | state._asdict()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::ruledsl.errors.RuleWarning")
def test_every_rule_begins_alike_in_both_backends(name: str) -> None:
    net, program = converted(RULES[name].compile("torch")), RULES[name].compile("jax")
    pairs = list(zip(program.tensors, RULES[name].compile("torch").tensors, strict=True))
    for path in LAYERS:
        layer = net.get_submodule(path)
        found = made(path, layer, program)
        for ours, theirs in pairs:
            if ours.name not in ("W", "b"):
                expected, value = in_jax(layer, theirs, path), found[ours.name]
                for one, other in zip(value, expected, strict=True) if is_family(ours) else ((value, expected),):
                    np.testing.assert_allclose(one, other, rtol=3e-7, err_msg=f"{path} {ours.name}")


def test_feedback_weights_are_not_the_forward_weights_of_the_same_seed() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    for layer in net:
        nn.init.normal_(layer.weight, std=float(np.sqrt(1 / 4)))
    ruledsl_torch.convert(net, "feedback_alignment", seed=0)
    assert abs(np.corrcoef(net[1].weight.detach().ravel(), net[1].B.ravel())[0, 1]) < 0.5


@pytest.mark.parametrize("name", [name for name in NAMES if name in ruledsl.names()])
@pytest.mark.filterwarnings("ignore::ruledsl.errors.RuleWarning")
def test_nothing_that_a_rule_draws_follows_from_the_weights(name: str) -> None:
    """Whatever seeds are used: no stream of draws is that of the weights."""
    program = RULES[name].compile("torch")
    drawn = [t.name for t in program.tensors if t.name not in ("W", "b") and t.kind in ("weight", "fixed", "fresh")]
    for seeds in ((0, 0), (0, 1), (1, 0), (1, 1), (42, 42), (1234, 1234), (2026, 2026)):
        torch.manual_seed(seeds[0])
        net = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40))
        for layer in (net[0], net[2], net[4]):
            nn.init.normal_(layer.weight, std=40**-0.5)
        before = {path: net[int(path)].weight.detach().clone() for path in ("0", "2", "4")}
        names = dict.fromkeys(before, "relu")
        ruledsl_torch.convert(net, program, example=torch.zeros(1, 40), activations=names, seed=seeds[1])
        for path in before:
            for tensor in drawn:
                value = getattr(net[int(path)], attribute(tensor), None)
                if isinstance(value, torch.Tensor) and value.shape == (40, 40) and float(value.detach().std()) > 0:
                    for weights in before.values():
                        for turned in (weights, weights.T):
                            found = np.corrcoef(turned.ravel(), value.detach().ravel())[0, 1]
                            assert abs(found) < 0.15, (path, tensor, seeds)


def test_first_values_do_not_depend_on_what_else_is_drawn() -> None:
    alone = ruledsl_torch.convert(network(), "feedback_alignment", rules={"[02]": None}, seed=SEED)
    torch.rand(3)
    assert torch.equal(alone.get_submodule("4").B, converted("feedback_alignment").get_submodule("4").B)


class FromHost:
    """In the place of `network.draws`: every draw comes from the host, in a step as before the first."""

    def first(self, path: str) -> Streams:
        return Streams(SEED, path)

    def in_step(self, path: str, step: int, device: torch.device) -> Streams:
        return Streams(SEED + 1 + step, path)


@pytest.mark.parametrize("name", ["brsf_p", "backprop_noise"])
def test_what_is_fresh_in_a_step_can_be_the_same_in_both_backends(name: str) -> None:
    net, program = converted(name), ruledsl.load(name).compile("jax")
    net.ruledsl.draws = FromHost()  # type: ignore[union-attr]
    before = {path: made(path, net.get_submodule(path), program) for path in LAYERS}
    ruledsl_torch.advance(net)
    for path, values in before.items():
        params, state = (
            kind(*(values[n] for n in kind._fields)) for kind in (program.module.Params, program.module.State)
        )
        key = streams(path, program, SEED + 1)
        _, state = called(program.module.advance, layer=LAYERS[path], params=params, state=state, key=key)
        for field, value in state._asdict().items():
            expected = in_jax(net.get_submodule(path), program.tensor(field), path)
            np.testing.assert_array_equal(value, expected)
            assert not np.isin(value, values[field]).all() or name == "brsf_p"


def test_noise_that_drives_a_phase_can_be_the_same_in_both_backends() -> None:
    net, program = converted("weight_mirror"), ruledsl.load("weight_mirror").compile("jax")
    net.ruledsl.draws = FromHost()  # type: ignore[union-attr]
    before = {path: made(path, net.get_submodule(path), program) for path in LAYERS}
    ruledsl_torch.observe(net, epoch=0)
    ruledsl_torch.advance(net)
    for path, values in before.items():
        params, state = program.module.Params(values["W"], values["b"]), program.module.State(values["B"])
        state = program.module.mirror(LAYERS[path], params, state, streams(path, program, SEED + 1), 2)
        expected = in_jax(net.get_submodule(path), program.tensor("B"), path)
        np.testing.assert_allclose(state.B, expected, atol=1e-5)


def test_a_constraint_draws_apart_from_a_rule_with_a_tensor_of_the_same_name() -> None:
    text = "constraint jitter { state B : pre -> post ~ normal(0, 1)  after step { W <- W + 0.1 * B } }"
    net, program = converted("feedback_alignment", constraints=ruledsl.parse(text)), ruledsl.parse(text).compile("jax")
    layer = net.get_submodule("6")
    assert not torch.equal(layer.jitter_B, layer.B)
    values = made("6", layer, ruledsl.load("feedback_alignment").compile("jax"))
    state = program.module.init(LAYERS["6"], type("Params", (), values), streams("6", program))
    np.testing.assert_array_equal(state.B, in_jax(layer, Tensor("jitter_B", "state", ("pre", "post")), "6"))


def test_an_optimizer_draws_from_what_it_is_given() -> None:
    p = nn.Parameter(torch.zeros(3, 4))
    p.grad = torch.zeros_like(p)
    optimizer = ruledsl_torch.optimizer([p], "noisy_sgd", lr=0.5, sigma=0.1)
    optimizer.draws = lambda p, name: Streams(SEED, "p").of(name)
    optimizer.step()
    np.testing.assert_allclose(p.detach(), 0.05 * Streams(SEED, "p").of("n").normal((3, 4)), rtol=1e-6)


def test_a_network_resumed_from_its_state_draws_the_same() -> None:
    first, resumed = converted("brsf_p"), ruledsl_torch.convert(network(), "brsf_p", seed=99)
    ruledsl_torch.advance(first)
    resumed.load_state_dict(first.state_dict())
    resumed.ruledsl.load_state(first.ruledsl.state())  # type: ignore[union-attr,operator]
    ruledsl_torch.advance(first), ruledsl_torch.advance(resumed)
    for name, value in first.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_steps_draw_anew() -> None:
    net = converted("brsf")
    drawn = []
    for _ in range(3):
        drawn.append(net.get_submodule("4").M.clone())
        ruledsl_torch.advance(net)
    assert all(not torch.equal(one, other) for one, other in ((drawn[0], drawn[1]), (drawn[1], drawn[2])))


def test_the_names_of_the_backends_do_not_change_a_stream() -> None:
    program = ruledsl.parse("rule a { fixed half : post -> pre ~ normal(0, 1)  feedback send = half @ delta }")
    assert [t.stream for t in program.compile("torch").tensors] == [t.stream for t in program.compile("jax").tensors]
