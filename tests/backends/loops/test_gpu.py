"""On a GPU a loop does what it does on a processor: steps, phases, scaled losses, compiled networks."""

from __future__ import annotations

import pytest
import torch
from backends.loops import loops
from backends.torch import small
from torch.nn import functional as F

import ruledsl
from ruledsl_torch import advance, convert, observe
from ruledsl_torch.routing import optimizers

pytestmark = pytest.mark.gpu


def learnt(rule, device, steps=4):
    """What a network of double precision holds after a few steps, phases included."""
    net, x, labels = loops.plain(small.convnet)
    net, x, labels = net.to(device), x.to(device), labels.to(device)
    net = convert(net, rule, example=x, seed=0, activations=loops.ACTIVATIONS[small.ConvNet])
    optimizer = optimizers(net, task=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    for step in range(steps):
        observe(net, target=labels, epoch=step, progress=step / steps, lr=0.1)
        if net.ruledsl.sees_batch:
            optimizer.zero_grad()
            F.cross_entropy(net(x), labels).backward()
            optimizer.step()
        advance(net)
    return {name: value.detach().cpu() for name, value in net.state_dict().items() if value.is_floating_point()}


DRAWING = ("backprop_noise", "brsf", "brsf_p", "weight_mirror", "weight_mirror_ad", "weight_mirror_ad_ops")
DRAWING += ("weight_mirror_tpe", "information_alignment", "information_alignment_tpe", "activation_alignment")


@pytest.mark.parametrize("rule", [rule for rule in loops.LIBRARY if rule not in DRAWING])
def test_every_rule_learns_what_it_learns_on_a_processor(rule):
    loops.assert_same(learnt(rule, "cuda"), learnt(rule, "cpu"), 1e-7)


@pytest.mark.parametrize("rule", [rule for rule in loops.LIBRARY if rule in DRAWING])
def test_rules_that_draw_learn_there_too(rule):
    found = learnt(rule, "cuda")
    assert all(value.isfinite().all() for value in found.values())
    assert any(
        (found[name] - value).abs().max() > 0 for name, value in loops.plain(small.convnet)[0].state_dict().items()
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
        lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    ],
)
def test_a_scaled_loss_leaves_decay_as_it_is(make):
    outcomes = []
    for enabled in (True, False):
        net = convert(small.mlp().cuda(), ruledsl.load("kolen_pollack", decay=0.1), seed=0)
        x, labels = (each.cuda() for each in small.batch(net))
        optimizer, scaler = make(net.parameters()), torch.amp.GradScaler("cuda", init_scale=2.0**12, enabled=enabled)
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(net(x), labels)).backward()
            scaler.step(optimizer)
            scaler.update()
        outcomes.append(dict(net.named_parameters()))
    loops.assert_same(*({name: p.detach() for name, p in each.items()} for each in outcomes), 1e-4)


@pytest.mark.parametrize("rule", loops.A_FEW)
def test_compiled_by_inductor_it_is_the_same(rule):
    torch._dynamo.reset()
    net, x, labels = loops.converted(rule, small.convnet)
    net, x, labels = net.cuda(), x.cuda(), labels.cuda()
    observe(net, target=labels)
    eager = loops.gradients(net, x, labels)
    net.zero_grad()
    F.cross_entropy(torch.compile(net, fullgraph=True)(x), labels).backward()
    loops.assert_same({name: p.grad for name, p in net.named_parameters() if p.grad is not None}, eager, 1e-7)
