"""Under torch.autocast every rule does in bf16 or fp16 what it does in float32, and what it keeps stays float32."""

from __future__ import annotations

import pytest
import torch
from backends.loops import loops
from backends.torch import small
from torch import nn
from torch.nn import functional as F

from ruledsl_torch import advance, convert, observe
from ruledsl_torch.routing import optimizers

every_rule = pytest.mark.parametrize("rule", loops.LIBRARY)
TANH = dict.fromkeys(("conv1", "conv2", "fc1", "fc2"), "tanh") | {"fc3": "identity"}


class LeNet(nn.Module):
    """[batch, 1, 28, 28] -> [batch, 10]"""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.avg_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.avg_pool2d(torch.tanh(self.conv2(x)), 2).flatten(1)
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


def lenet(rule, device="cpu"):
    torch.manual_seed(0)
    x, labels = torch.randn(16, 1, 28, 28, device=device), torch.randint(0, 10, (16,), device=device)
    net = convert(LeNet().to(device), rule, example=x, seed=0, activations=TANH)
    observe(net, epoch=5, progress=0.5, lr=0.1)
    return net, x, labels


def found_in(net, x, labels, dtype=None, run=None, scale=1.0):
    """By phase and parameter, the gradients of a step; and what the rule keeps, after it."""
    optimizer = optimizers(net, task=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    found = {}
    for _ in range(2):
        observe(net, target=labels)
        if net.ruledsl.sees_batch:
            optimizer.zero_grad()
            with torch.autocast(x.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                output = (net if run is None else run)(x)
                loss = F.cross_entropy(output, labels)
            assert output.dtype == dtype or dtype is None
            (loss * scale).backward()
            grads = {name: p.grad / scale for name, p in net.named_parameters() if p.grad is not None}
            found.update({(net.ruledsl.phase, name): gradient for name, gradient in grads.items()})
        advance(net)
    found.update({("kept", name): value.clone() for name, value in net.named_buffers()})
    assert all(value.dtype == torch.float32 for value in found.values() if value.is_floating_point())
    return found


def assert_alike(found, expected, least=0.99):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value.any():
            assert F.cosine_similarity(found[name].flatten(), value.flatten(), dim=0) >= least, name


@every_rule
def test_every_gradient_points_where_that_in_float32_does(rule):
    assert_alike(found_in(*lenet(rule), torch.bfloat16), found_in(*lenet(rule)), 0.999)


@pytest.mark.parametrize("rule", loops.A_FEW)
def test_in_fp16_too_where_the_loss_is_scaled(rule):
    assert_alike(found_in(*lenet(rule), torch.float16, scale=2.0**10), found_in(*lenet(rule)), 0.999)


@pytest.mark.parametrize("rule", [*loops.A_FEW, "dense_feedback_alignment", "direct_kolen_pollack"])
def test_compiled_it_is_the_same(rule):
    torch._dynamo.reset()
    net, x, labels = lenet(rule)
    run = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert_alike(found_in(net, x, labels, torch.bfloat16, run), found_in(*lenet(rule)), 0.999)


@pytest.mark.gpu
@every_rule
def test_on_a_gpu_every_gradient_points_where_that_in_float32_does(rule):
    assert_alike(found_in(*lenet(rule, "cuda"), torch.bfloat16), found_in(*lenet(rule, "cuda")))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_grad_scaler_trains_in_fp16_as_in_float32(device):
    last = []
    for enabled in (True, False):
        net, x, labels = lenet("feedback_alignment", device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        scaler = torch.amp.GradScaler(device, init_scale=2.0**10, enabled=enabled)
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            with torch.autocast(device, dtype=torch.float16, enabled=enabled):
                loss = F.cross_entropy(net(x), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        assert losses[-1] < 0.99 * losses[0]
        last.append(losses[-1])
    assert abs(last[0] - last[1]) < 0.005


def test_a_backward_pass_inside_the_context_is_no_other():
    outcomes = []
    for inside in (True, False):
        net, x, labels = lenet("feedback_alignment")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(net(x), labels)
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        outcomes.append({name: p.grad for name, p in net.named_parameters()})
    loops.assert_same(*outcomes)


def test_weights_cast_for_a_rule_have_gradients_elsewhere():
    """Autocast keeps what it has cast; a use of the same weight outside the layer gets its gradient all the same."""
    net = convert(nn.Sequential(nn.Linear(6, 6)), "feedback_alignment", seed=0)
    x = torch.randn(4, 6)
    found = []
    for enabled in (True, False):
        net.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            F.linear(net(x), net[0].weight).sum().backward()
        found.append(net[0].weight.grad.clone())
    assert F.cosine_similarity(found[0].flatten(), found[1].flatten(), dim=0) > 0.999


@every_rule
def test_a_network_of_bf16_alone_learns_as_one_of_float32(rule):
    x, labels = small.batch(small.mlp())
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        net = loops.follow(small.mlp(), rule, x, labels).to(dtype)
        found.append({name: g.float() for name, g in loops.gradients(net, x.to(dtype), labels).items()})
    assert_alike(found[1], found[0], 0.99)


def test_an_input_of_another_type_outside_of_autocast_is_the_error_that_it_was():
    net, x, _ = loops.converted("feedback_alignment")
    with pytest.raises(RuntimeError, match="dtype"):
        net(x.float())


def test_torch_func_works_under_autocast():
    net, x, labels = lenet("feedback_alignment")
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(own, one, label):
        return F.cross_entropy(torch.func.functional_call(net, own, (one[None],)), label[None])

    with torch.autocast("cpu", dtype=torch.bfloat16):
        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, labels)
    F.cross_entropy(net(x), labels).backward()
    expected = {name: p.grad for name, p in net.named_parameters()}
    assert_alike({name: each[name].mean(0) for name in expected}, expected, 0.999)
