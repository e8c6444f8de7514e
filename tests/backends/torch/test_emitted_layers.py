"""What PyTorch offers for networks works with converted ones: copies, other processes, compilation, torch.func."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from backends.torch import handwritten, small
from torch import nn
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ruledsl.errors import UserError
from ruledsl_torch import convert, observe

RULES = ["feedback_alignment", "kolen_pollack", "usf_sn", "direct_feedback_alignment", "drtp", "weight_mirror"]
INSIDE = ["feedback_alignment", "kolen_pollack", "usf_sn", "weight_mirror"]  # what follows from a layer's own errors
every_rule = pytest.mark.parametrize("rule", RULES)
own_errors = pytest.mark.parametrize("rule", INSIDE)


def network(seed: int = 0) -> nn.Sequential:
    """[batch, 6] -> [batch, 3]; of torch's own modules, which any process can load."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)).double()


def converted(rule: str, seed: int = 0, sends: bool = False) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    net = network(seed)
    generator = torch.Generator().manual_seed(1)
    x, labels = torch.randn(5, 6, generator=generator).double(), torch.tensor([0, 1, 2, 1, 0])
    return convert(net, rule, example=x.clone().requires_grad_(sends), seed=seed), x, labels


def gradients(net, x, labels, loss=F.cross_entropy) -> dict[str, torch.Tensor]:
    observe(net, target=labels)
    net.zero_grad()
    loss(net(x), labels).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def assert_close(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert small.relative(found[name], value) <= 1e-10 or torch.allclose(found[name], value, atol=1e-14), name


@every_rule
def test_a_copy_learns_alike_and_leaves_the_original_alone(rule):
    net, x, labels = converted(rule)
    twin = copy.deepcopy(net)
    before = copy.deepcopy(net.state_dict())
    trained = small.train(twin, x, labels)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(value, trained[name]) for name, value in small.train(net, x, labels).items())


CHILD = """
import sys, torch
from torch.nn import functional as F
net, x, labels = torch.load(sys.argv[1], weights_only=False)
from ruledsl_torch import advance, observe
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
observe(net, target=labels)
F.cross_entropy(net(x), labels).backward()
optimizer.step()
advance(net)
torch.save(net.state_dict(), sys.argv[2])
"""


def test_another_process_loads_a_pickled_network_and_trains_it(tmp_path: Path):
    code = "\n".join(
        f"sys.argv[1:] = [{str(tmp_path / f'{rule}.net')!r}, {str(tmp_path / f'{rule}.state')!r}]\n{CHILD}"
        for rule in RULES
    )
    for rule in RULES:
        torch.save(converted(rule), tmp_path / f"{rule}.net")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", f"import sys\n{code}"], env=environment, check=True)
    for rule in RULES:
        found = torch.load(tmp_path / f"{rule}.state")
        assert_close(found, small.train(*converted(rule), steps=1))


@every_rule
def test_a_pickle_says_what_is_learned_and_holds_no_code_but_the_rule(rule):
    net, x, labels = converted(rule)
    twin = pickle.loads(pickle.dumps(net))
    assert type(twin[0]) is type(net[0]) and twin.ruledsl.layers["0"] is twin[0]
    assert_close(gradients(twin, x, labels), gradients(net, x, labels))


@every_rule
def test_a_compiled_network_is_one_graph_with_the_same_numbers(rule):
    torch._dynamo.reset()
    (net, x, labels), (other, _, _) = converted(rule), converted(rule)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = small.train(other, x, labels, run=torch.compile(other, fullgraph=True, backend="aot_eager"))
    assert_close(found, small.train(net, x, labels))


@every_rule
def test_functional_call_takes_parameters_from_outside(rule):
    net, x, labels = converted(rule)
    other, _, _ = converted(rule, seed=1)
    expected = gradients(other, x, labels)
    given = {name: p.detach().clone().requires_grad_() for name, p in other.named_parameters()}
    state = {**given, **dict(other.named_buffers())}
    observe(net, target=labels)
    F.cross_entropy(functional_call(net, state, (x,)), labels).backward()
    assert_close({name: p.grad for name, p in given.items() if p.grad is not None}, expected)
    assert all(p.grad is None for p in net.parameters())


def loss_of(net, buffers):
    def loss(parameters, x, labels):
        return F.cross_entropy(functional_call(net, {**parameters, **buffers}, (x,)), labels)

    return loss


@every_rule
def test_torch_func_grad_gives_the_pseudo_gradients(rule):
    net, x, labels = converted(rule)
    expected = gradients(net, x, labels)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    observe(net, target=labels)
    found = grad(loss_of(net, dict(net.named_buffers())))(parameters, x, labels)
    assert_close({name: found[name] for name in expected}, expected)
    assert all(not found[name].any() for name in found.keys() - expected.keys())


@own_errors
def test_gradients_of_each_sample_are_those_of_batches_of_one(rule):
    net, x, labels = converted(rule)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    each = vmap(grad(loss_of(net, dict(net.named_buffers()))), in_dims=(None, 0, 0))(
        parameters, x[:, None], labels[:, None]
    )
    for index in range(len(x)):
        expected = gradients(net, x[index : index + 1], labels[index : index + 1])
        assert_close({name: each[name][index] for name in expected}, expected)


@own_errors
def test_examples_without_a_batch_axis_are_mapped_too(rule):
    net, x, labels = converted(rule)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    each = vmap(grad(loss_of(net, dict(net.named_buffers()))), in_dims=(None, 0, 0))(parameters, x, labels)
    expected = gradients(net, x[2:3], labels[2:3])
    assert_close({name: each[name][2] for name in expected}, expected)


@own_errors
def test_jacrev_is_one_backward_pass_for_each_output(rule):
    net, x, _ = converted(rule, sends=True)
    found = jacrev(lambda z: net(z).sum(0))(x)
    for index in range(3):
        z = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(net(z).sum(0)[index], z)
        assert torch.allclose(found[index], expected, rtol=1e-10)


@own_errors
def test_an_ensemble_is_its_members(rule):
    members = [converted(rule, seed)[0] for seed in range(3)]
    _, x, labels = converted(rule)
    parameters, buffers = stack_module_state(members)
    base = copy.deepcopy(members[0])

    def loss(own, fixed):
        return F.cross_entropy(functional_call(base, {**own, **fixed}, (x,)), labels)

    found = vmap(grad(loss))({name: p.detach() for name, p in parameters.items()}, buffers)
    for index, member in enumerate(members):
        expected = gradients(member, x, labels)
        assert_close({name: found[name][index] for name in expected}, expected)


@own_errors
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_no_number(rule, reentrant):
    net, x, labels = converted(rule)
    expected = gradients(net, x, labels)
    net.zero_grad()
    hidden = checkpoint(net[1:4], net[0](x), use_reentrant=reentrant)
    F.cross_entropy(net[4](hidden), labels).backward()
    assert_close({name: p.grad for name, p in net.named_parameters() if p.grad is not None}, expected)


def test_what_a_backward_pass_stores_has_no_place_in_a_transform():
    _, x, labels = converted("feedback_alignment")
    net = convert(network(), handwritten.running_mean)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    with pytest.raises(UserError, match=r"transforms of torch\.func"):
        grad(loss_of(net, dict(net.named_buffers())))(parameters, x, labels)
