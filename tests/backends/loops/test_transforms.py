"""torch.func on converted networks: every rule of the library gives what `backward` gives, or says that it can't."""

from __future__ import annotations

import copy

import pytest
import torch
from backends.loops import loops
from backends.torch import small
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.nn import functional as F

from ruledsl.errors import UserError

every_rule = pytest.mark.parametrize("rule", loops.LIBRARY)
a_few = pytest.mark.parametrize("rule", loops.A_FEW)
TOLD = ("drtp",)
"""Rules that read what `observe` told of a whole batch."""


def detached(net):
    return {name: p.detach() for name, p in net.named_parameters()}


def loss_of(net):
    buffers = dict(net.named_buffers())

    def loss(parameters, x, labels):
        one = labels.dim() == 0
        output = functional_call(net, {**parameters, **buffers}, (x[None] if one else x,))
        return F.cross_entropy(output, labels[None] if one else labels)

    return loss


@every_rule
@pytest.mark.parametrize("build", [small.mlp, small.convnet])
def test_grad_is_what_backward_leaves(rule, build):
    net, x, labels = loops.converted(rule, build)
    found = grad(loss_of(net))(detached(net), x, labels)
    loops.assert_same(found, loops.gradients(net, x, labels))


@every_rule
@pytest.mark.parametrize("build", [small.mlp, small.convnet])
def test_mapped_over_examples_it_is_a_loop_over_them(rule, build):
    net, x, labels = loops.converted(rule, build)
    per_example = vmap(grad(loss_of(net)), in_dims=(None, 0, 0), randomness="different")
    if rule in TOLD:
        with pytest.raises(UserError, match="a target for 5 examples for this batch of 1"):
            per_example(detached(net), x, labels)
        return
    found = per_example(detached(net), x, labels)
    for index in range(len(x)):
        expected = loops.gradients(net, x[index : index + 1], labels[index : index + 1])
        loops.assert_same({name: value[index] for name, value in found.items()}, expected)


@every_rule
def test_mapped_over_an_ensemble_it_is_a_loop_over_members(rule):
    members = [loops.converted(rule, seed=seed)[0] for seed in range(3)]
    base, x, labels = loops.converted(rule)
    base = copy.deepcopy(base)
    parameters, buffers = stack_module_state(members)

    def loss(own, fixed):
        return F.cross_entropy(functional_call(base, {**own, **fixed}, (x,)), labels)

    found = vmap(grad(loss))({name: p.detach() for name, p in parameters.items()}, buffers)
    for index, member in enumerate(members):
        loops.assert_same({name: value[index] for name, value in found.items()}, loops.gradients(member, x, labels))


@every_rule
def test_functional_call_alone_learns_by_the_rule(rule):
    net, x, labels = loops.converted(rule)
    own = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}
    loss = F.cross_entropy(functional_call(net, own, (x,)), labels)
    values = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
    found = {name: value for name, value in zip(own, values, strict=True) if value is not None}
    loops.assert_same(found, loops.gradients(net, x, labels))


@a_few
def test_vjp_is_a_backward_pass(rule):
    net, x, labels = loops.converted(rule)
    _, backward = vjp(lambda own: loss_of(net)(own, x, labels), detached(net))
    loops.assert_same(backward(torch.ones((), dtype=torch.float64))[0], loops.gradients(net, x, labels))


FORWARD = {
    "jvp": lambda f, own: jvp(f, (own,), (own,)),
    "jacfwd": lambda f, own: jacfwd(f)(own),
    "hessian": lambda f, own: hessian(f)(own),
}
TWICE = {
    "jacrev of grad": lambda f, own: jacrev(grad(f))(own),
    "grad of grad": lambda f, own: grad(lambda p: grad(f)(p)["fc1.weight"].square().sum())(own),
    "grad of mapped grad": lambda f, own: grad(
        lambda p: vmap(lambda scale: grad(lambda q: scale * f(q))(p)["fc1.bias"])(torch.ones(2)).sum()
    )(own),
}


@a_few
@pytest.mark.parametrize("transform", FORWARD.values(), ids=FORWARD)
def test_there_is_no_derivative_in_forward_mode(rule, transform):
    net, x, labels = loops.converted(rule)
    with pytest.raises(UserError, match="no derivative in forward mode"):
        transform(lambda own: loss_of(net)(own, x, labels), detached(net))


@a_few
@pytest.mark.parametrize("transform", TWICE.values(), ids=TWICE)
def test_there_is_no_second_derivative(rule, transform):
    net, x, labels = loops.converted(rule)
    with pytest.raises(UserError, match="differentiated once"):
        transform(lambda own: loss_of(net)(own, x, labels), detached(net))


@a_few
def test_nor_is_there_one_outside_of_torch_func(rule):
    net, x, labels = loops.converted(rule)
    loss = F.cross_entropy(net(x), labels)
    (gradient,) = torch.autograd.grad(loss, net.fc3.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.square().sum().backward()


@a_few
def test_without_gradients_a_network_is_the_plain_one(rule):
    net, x, _ = loops.converted(rule)
    plain, _, _ = loops.plain()
    plain.load_state_dict(net.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(jvp(net, (x,), (x,))[1], jvp(plain, (x,), (x,))[1])
