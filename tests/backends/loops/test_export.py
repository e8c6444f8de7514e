"""What makes another program of a network keeps its rule, or says that it doesn't."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from backends.loops import loops
from functorch.compile import aot_module, nop
from torch.func import functional_call, grad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from ruledsl.errors import RuleWarning, UserError

every_rule = pytest.mark.parametrize("rule", loops.LIBRARY)
a_few = pytest.mark.parametrize("rule", loops.A_FEW)


@pytest.fixture(autouse=True)
def _afresh():
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@every_rule
def test_a_network_in_training_is_not_exported(rule):
    net, x, _ = loops.converted(rule)
    with pytest.raises(UserError, match=rf"torch\.export keeps of {rule} what its layers compute forwards"):
        torch.export.export(net.train(), (x,), strict=False)


def test_nor_is_it_where_a_compiler_reads_it():
    net, x, _ = loops.converted("feedback_alignment")
    with pytest.raises(Exception, match="feedback_alignment what its layers compute forwards"):
        torch.export.export(net.train(), (x,), strict=True)


@a_few
def test_exported_for_inference_it_is_the_plain_network(rule):
    net, x, _ = loops.converted(rule)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", RuleWarning)
        for strict in (True, False):
            assert torch.equal(torch.export.export(net, (x,), strict=strict).module()(x), net(x))


@a_few
def test_exported_with_gradients_in_evaluation_mode_it_warns_once(rule):
    net, x, _ = loops.converted(rule)
    with pytest.warns(RuleWarning, match="would learn by backpropagation") as said:
        program = torch.export.export(net.eval(), (x,), strict=False)
        torch.export.export(net, (x,), strict=False)
    assert len([each for each in said if issubclass(each.category, RuleWarning)]) == 1
    assert torch.equal(program.module()(x), net(x))


def test_where_nothing_learns_nothing_is_said():
    net, x, _ = loops.converted("feedback_alignment")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuleWarning)
        torch.export.export(net.train().requires_grad_(False), (x,), strict=False)


@a_few
def test_torch_script_is_refused(rule):
    with pytest.raises(UserError, match=f"TorchScript has no {rule}"):
        torch.jit.script(loops.converted(rule)[0])


@a_few
def test_a_trace_keeps_the_rule_and_is_saved_for_inference_alone(rule):
    net, x, labels = loops.converted(rule)
    expected = loops.gradients(net, x, labels)
    net.zero_grad()
    traced = torch.jit.trace(net, x, check_trace=False)
    F.cross_entropy(traced(x), labels).backward()
    loops.assert_same({name: p.grad for name, p in net.named_parameters() if p.grad is not None}, expected)
    with pytest.raises(RuntimeError, match="Could not export Python function"):
        torch.jit.save(traced, io.BytesIO())
    with torch.no_grad():
        traced, file = torch.jit.trace(net, x), io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    assert torch.allclose(torch.jit.load(file)(x), net(x))


@a_few
def test_a_symbolic_trace_is_refused_by_torch(rule):
    with pytest.raises(torch.fx.proxy.TraceError):
        torch.fx.symbolic_trace(loops.converted(rule)[0])


@a_few
def test_graphs_of_forward_and_backward_pass_have_the_rule(rule):
    net, x, labels = loops.converted(rule)
    expected = loops.gradients(net, x, labels)
    own = {name: p.detach() for name, p in net.named_parameters()}

    def learned(parameters, inputs, targets):
        return grad(lambda p: F.cross_entropy(functional_call(net, p, (inputs,)), targets))(parameters)

    loops.assert_same(make_fx(learned)(own, x, labels)(own, x, labels), expected)
    net.zero_grad()
    F.cross_entropy(aot_module(net, nop)(x), labels).backward()
    loops.assert_same({name: p.grad for name, p in net.named_parameters() if p.grad is not None}, expected)
