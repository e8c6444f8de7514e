"""Attention is four linear maps: each follows the rule, and what torch and its users know of the module stays."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from backends.torch import passes, small
from torch import nn
from torch.nn import functional as F

import ruledsl
from ruledsl.errors import UserError
from ruledsl_torch import advance, convert, observe
from ruledsl_torch.composites import close
from ruledsl_torch.layers import RuleLayer
from ruledsl_torch.optimization import optimizers
from ruledsl_torch.unconversion import plain_class

EMBED, HEADS, BATCH, LENGTH, SOURCE = 8, 2, 3, 5, 4
FORMS = {
    "self": {},
    "batch_first": {"batch_first": True},
    "no_bias": {"bias": False},
    "bias_kv": {"add_bias_kv": True},
    "zero_attn": {"add_zero_attn": True, "batch_first": True},
    "everything": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 6, "vdim": 7},
    "widths": {"kdim": 6, "vdim": 7, "batch_first": True},
    "widths_no_bias": {"kdim": 6, "vdim": 7, "bias": False},
}
causal = torch.triu(torch.full((LENGTH, LENGTH), -math.inf), diagonal=1).double()
padded = torch.tensor([[False] * LENGTH, [False] * 3 + [True] * 2, [False] * 4 + [True]])
CALLS = {
    "plain": {},
    "no_weights": {"need_weights": False},
    "heads_apart": {"average_attn_weights": False},
    "causal": {"attn_mask": causal, "is_causal": True, "need_weights": False},
    "causal_and_weights": {"attn_mask": causal, "is_causal": True},
    "bool_mask": {"attn_mask": causal != 0},
    "mask_by_head": {"attn_mask": torch.randn(BATCH * HEADS, LENGTH, LENGTH).double(), "need_weights": False},
    "padding": {"key_padding_mask": padded},
    "padding_and_causal": {"key_padding_mask": padded, "attn_mask": causal != 0, "need_weights": False},
    "float_padding": {"key_padding_mask": padded.double() * -3},
    "causal_and_padding": {"key_padding_mask": padded.double() * -9, "attn_mask": causal, "is_causal": True},
}
RULES = [name for name in passes.library() if ruledsl.load(name).kind == "rule"]


def pair(form, rule="backprop", **options):
    """An attention of torch, and the same one under a rule."""
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(EMBED, HEADS, dtype=torch.float64, **FORMS[form], **options)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.normal_(std=0.5)
    ruled = copy.deepcopy(plain)
    return plain, convert(ruled, rule, seed=0)


def inputs(module, batched=True, length=LENGTH, source=LENGTH):
    """Query, key, value; the same tensor where the module allows it and lengths are equal."""
    generator = torch.Generator().manual_seed(1)
    widths = (module.embed_dim, module.kdim, module.vdim)
    if len(set(widths)) == 1 and length == source:
        x = torch.randn(BATCH, length, EMBED, generator=generator, dtype=torch.float64)
        found = (x, x, x)
    else:
        sizes = zip((length, source, source), widths, strict=True)
        found = tuple(torch.randn(BATCH, *size, generator=generator, dtype=torch.float64) for size in sizes)
    if not batched:
        return tuple(each[0] for each in found) if found[0] is not found[1] else (found[0][0],) * 3
    if not module.batch_first:
        turned = [each.transpose(0, 1) for each in found]
        return (turned[0],) * 3 if found[0] is found[1] else tuple(turned)
    return found


def learned(module, given, **call):
    """Output, weights, and every gradient, those of the inputs among them."""
    leaves = [each.clone().requires_grad_() for each in given]
    query, key, value = (leaves[0],) * 3 if given[0] is given[1] else leaves
    output, weights = module(query, key, value, **call)
    loss = output.sin().sum() + (0 if weights is None else (weights**2).sum())
    loss.backward()
    return [
        output,
        *([] if weights is None else [weights]),
        *(leaf.grad for leaf in leaves if leaf.grad is not None),
    ], [parameter.grad for parameter in module.parameters()]


def same(one, other, tolerance=1e-10):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("form", FORMS)
def test_under_backprop_it_is_torchs_own(form, call):
    plain, ruled = pair(form)
    given = inputs(plain)
    for one, other in zip(learned(plain, given, **CALLS[call]), learned(ruled, given, **CALLS[call]), strict=True):
        same(one, other)


@pytest.mark.parametrize("form", FORMS)
def test_it_may_look_at_something_else(form):
    plain, ruled = pair(form)
    given = inputs(plain, source=SOURCE)
    for one, other in zip(learned(plain, given), learned(ruled, given), strict=True):
        same(one, other)


@pytest.mark.parametrize("source", [LENGTH, SOURCE])
@pytest.mark.parametrize("form", FORMS)
def test_an_example_without_batch_is_one_too(form, source):
    plain, ruled = pair(form)
    given = inputs(plain, batched=False, source=source)
    call = {"key_padding_mask": torch.arange(source) > 2}
    for one, other in zip(learned(plain, given, **call), learned(ruled, given, **call), strict=True):
        same(one, other)


def test_what_torch_refuses_is_refused():
    plain, ruled = pair("batch_first")
    x = inputs(plain)[0]
    for module in (plain, ruled):
        with pytest.raises(RuntimeError, match="Need attn_mask"):
            module(x, x, x, is_causal=True)
        with pytest.raises(RuntimeError, match="shape of the 2D attn_mask"):
            module(x, x, x, attn_mask=causal[:2])
        with pytest.raises(RuntimeError, match="shape of the 3D attn_mask"):
            module(x, x, x, attn_mask=causal[None])
    with pytest.raises((RuntimeError, AssertionError)):
        ruled(x, x[:1], x[:1])


def test_dropout_is_one_of_the_attention_weights_in_training_alone():
    plain, ruled = pair("batch_first", dropout=0.5)
    given = inputs(plain)
    own, torchs = (torch.stack([each(*given)[0].detach() for _ in range(1500)]) for each in (ruled, plain))
    plain.eval(), ruled.eval()
    assert small.relative(own.mean(0), plain(*given)[0]) <= 0.05
    assert small.relative(own.std(0), torchs.std(0)) <= 0.05
    assert torch.equal(ruled(*given)[0], ruled(*given)[0])
    weights = ruled.train()(*given, average_attn_weights=False)[1]
    assert 0.2 < (weights == 0).double().mean() < 0.8


# --- what stays ---


@pytest.mark.parametrize("form", FORMS)
def test_parameters_and_checkpoints_stay_what_they_were(form):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(EMBED, HEADS, **FORMS[form])
    before, state = dict(module.named_parameters()), copy.deepcopy(module.state_dict())
    convert(module, "feedback_alignment", seed=0)
    assert [name for name in module.state_dict() if not name.endswith(".B")] == list(state)
    assert set(module.state_dict()) - set(state) == {f"{name}_proj.B" for name in ("q", "k", "v", "out")}
    after = dict(module.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    convert(fresh := nn.MultiheadAttention(EMBED, HEADS, **FORMS[form]), "backprop")
    fresh.load_state_dict(state, strict=True, assign=True)
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in state.items())
    x = inputs(module.double(), source=SOURCE)
    assert torch.allclose(fresh.double()(*x)[0], module(*x)[0])


def test_an_optimizer_that_was_there_before_moves_the_projections():
    torch.manual_seed(0)
    module = nn.MultiheadAttention(EMBED, HEADS)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    convert(module, "feedback_alignment", seed=0)
    before = [getattr(module, name).weight.detach().clone() for name in ("q_proj", "k_proj", "v_proj", "out_proj")]
    x = torch.randn(LENGTH, BATCH, EMBED)
    module(x, x, x)[0].sin().sum().backward()
    optimizer.step()
    for old, name in zip(before, ("q_proj", "k_proj", "v_proj", "out_proj"), strict=True):
        assert not torch.equal(old, getattr(module, name).weight)


def test_it_can_be_closed_again():
    plain, ruled = pair("everything")
    for _, layer in ruled.named_modules():
        if isinstance(layer, RuleLayer):
            layer.__class__ = plain_class(type(layer))
    close(ruled)
    assert [(name, type(module)) for name, module in ruled.named_modules()] == [
        (name, type(module)) for name, module in plain.named_modules()
    ]
    given = inputs(plain)
    same(learned(plain, given)[1], learned(ruled, given)[1])


def test_a_failed_conversion_changes_nothing():
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(EMBED, HEADS, 6), 1)
    before = [(name, type(module)) for name, module in net.named_modules()]
    with pytest.raises(UserError):
        convert(net, "information_alignment")
    assert [(name, type(module)) for name, module in net.named_modules()] == before
    convert(net, "feedback_alignment")


def test_what_computes_something_of_its_own_is_listed():
    class Own(nn.MultiheadAttention):
        pass

    net = nn.Sequential(nn.Linear(EMBED, EMBED), Own(EMBED, HEADS), nn.MultiheadAttention(EMBED, HEADS), nn.LSTM(8, 8))
    net[2].forward = lambda *arguments: arguments
    with pytest.warns(UserWarning, match="Own computes something of its own"):
        convert(net, "feedback_alignment")
    assert list(net.ruledsl.layers) == ["0"]  # what is not called follows nothing: their out_proj is read
    assert list(net.ruledsl.skipped) == ["1", "2", "3"]
    assert "forward of its own" in net.ruledsl.skipped["2"] and "LSTM is no" in net.ruledsl.skipped["3"]
    assert type(net[2]) is nn.MultiheadAttention and type(net[1].out_proj) is type(nn.MultiheadAttention(4, 2).out_proj)


def test_a_kernel_made_of_others_is_listed():
    net = nn.Sequential(nn.Linear(EMBED, EMBED), nn.MultiheadAttention(EMBED, HEADS))
    nn.utils.parametrizations.weight_norm(net[1], "in_proj_weight")
    with pytest.warns(UserWarning, match="ParametrizedMultiheadAttention computes something of its own"):
        convert(net, "feedback_alignment")
    assert list(net.ruledsl.layers) == ["0"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_independent(copied):
    _, ruled = pair("batch_first", "kolen_pollack")
    twin = copied(ruled)
    assert twin.q_proj.owner is twin and twin.q_proj.weight.data_ptr() == twin.in_proj_weight.data_ptr()
    given = inputs(ruled)
    same(learned(ruled, given)[1], learned(twin, given)[1])
    with torch.no_grad():
        twin.in_proj_weight.zero_()
    assert ruled.q_proj.weight.any() and not twin.q_proj.weight.any()


# --- each projection is a layer like any other ---


class Separate(nn.Module):
    """Self-attention without masks, of four Linear layers: [batch, length, EMBED] -> the same."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(EMBED, EMBED) for _ in range(4))

    def forward(self, query, key, value):
        q, k, v = (
            layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for layer, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)), None


class Reader(nn.Module):
    """Attention between two dense layers: [batch, length, 6] -> [batch, 3]"""

    def __init__(self, attention):
        super().__init__()
        self.embed, self.attention, self.head = nn.Linear(6, EMBED), attention, nn.Linear(EMBED, 3)

    def forward(self, x):
        x = torch.tanh(self.embed(x))
        return self.head(x.mean(1) + torch.tanh(self.attention(x, x, x)[0].mean(1)))


def readers():
    """The same network twice: with torch's attention, and with four layers in its place."""
    torch.manual_seed(0)
    fused, apart = Reader(nn.MultiheadAttention(EMBED, HEADS, batch_first=True)), Reader(Separate())
    with torch.no_grad():
        fused.attention.in_proj_bias.normal_()
    weights = dict(zip(("q_proj", "k_proj", "v_proj"), fused.attention.in_proj_weight.chunk(3), strict=True))
    biases = dict(zip(weights, fused.attention.in_proj_bias.chunk(3), strict=True))
    own = {f"attention.{name}.weight": value for name, value in weights.items()}
    own |= {f"attention.{name}.bias": value for name, value in biases.items()}
    shared = {name: value for name, value in fused.state_dict().items() if "in_proj" not in name}
    apart.load_state_dict({**shared, **own})
    return fused.double(), apart.double()


def told(net):
    """Weights, biases and the rule's tensors of every layer, by name."""
    return {
        f"{path}.{name}": value
        for path, layer in net.ruledsl.layers.items()
        for name, value in {
            "weight": layer.weight,
            "bias": layer.bias,
            **dict(layer.named_buffers()),
            **dict(layer.named_parameters()),
        }.items()
        if value is not None
    }


@pytest.mark.parametrize("rule", RULES)
def test_under_every_rule_it_learns_like_four_layers(rule):
    x = torch.randn(BATCH, LENGTH, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2])
    found = []
    for net in readers():
        names = ("embed", "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj", "head")
        output = "backprop" if rule.startswith("oja") else None
        convert(net, rule, output=output, example=x, seed=0, activations=dict.fromkeys(names, "tanh"))
        assert tuple(net.ruledsl.layers) == names
        optimizer = optimizers(net, task=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.5))
        for _ in range(3):
            observe(net, target=labels)
            while True:
                step = net.ruledsl.step
                if net.ruledsl.sees_batch:
                    optimizer.zero_grad()
                    F.cross_entropy(net(x), labels).backward()
                    optimizer.step()
                advance(net)
                if net.ruledsl.step > step:
                    break
        found.append(told(net))
    fused, apart = found
    assert fused.keys() == apart.keys()
    for name in fused:
        assert small.relative(fused[name], apart[name]) <= 1e-9, name


# --- in torch's own transformers ---


def encoder(rule, **options):
    """An encoder of torch in evaluation mode, and the same one under a rule."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(EMBED, HEADS, 6, batch_first=True, **options)
    plain = nn.TransformerEncoder(layer, 2).eval()
    return plain, convert(copy.deepcopy(plain), rule, seed=0)


@pytest.mark.parametrize("mask", [None, padded])
@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_evaluates_as_before(norm_first, mask):
    """Without gradients torch computes all of an encoder layer at once, and with a mask as a nested tensor."""
    plain, ruled = encoder("feedback_alignment", norm_first=norm_first)
    x = torch.randn(BATCH, LENGTH, EMBED)
    right = plain(x, src_key_padding_mask=mask)
    seen = right.new_ones(BATCH, LENGTH) if mask is None else (~mask).float()
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            found = ruled(x, src_key_padding_mask=mask)
        assert ((found - right) * seen[..., None]).abs().max() <= 1e-6


def test_nested_tensors_pass_without_gradients():
    plain, ruled = encoder("feedback_alignment")
    x = torch.nested.nested_tensor([torch.randn(4, EMBED), torch.randn(2, EMBED)])
    with torch.no_grad():
        one, other = plain.layers[0].self_attn(x, x, x)[0], ruled.layers[0].self_attn(x, x, x)[0]
    assert all(torch.equal(a, b) for a, b in zip(one.unbind(), other.unbind(), strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_a_phase_without_errors_comes_by_every_layer_in_evaluation_mode_too(training):
    """Torch's own shortcut through an encoder layer would leave all of its layers out."""
    _, ruled = encoder("activation_alignment")
    net = ruled.train(training)
    optimizer = optimizers(net, task=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    x, seen = torch.randn(BATCH, LENGTH, EMBED), []
    for _ in range(2):
        optimizer.zero_grad()
        net(x).sin().sum().backward()
        seen.append(sorted(path for path, layer in net.ruledsl.layers.items() if layer.B.grad is not None))
        optimizer.step()
        advance(net)
    assert sorted(net.ruledsl.layers) in seen


def test_a_decoder_is_made_of_linear_layers():
    torch.manual_seed(0)
    plain = nn.Transformer(EMBED, HEADS, 1, 1, 6, dropout=0.0, batch_first=True, dtype=torch.float64)
    ruled = convert(copy.deepcopy(plain), "feedback_alignment", seed=0)
    assert len(ruled.ruledsl.layers) == 3 * 4 + 2 * 2 and not ruled.ruledsl.skipped
    with torch.no_grad():
        for layer in ruled.ruledsl.layers.values():
            layer.B.copy_(layer.weight)
    source, target = (torch.randn(BATCH, length, EMBED).double() for length in (SOURCE, LENGTH))
    for net in (plain, ruled):
        net(source, target, tgt_mask=causal, tgt_is_causal=True).sin().sum().backward()
    for name, parameter in plain.named_parameters():
        assert torch.allclose(ruled.get_parameter(name).grad, parameter.grad, rtol=0, atol=1e-10), name


# --- in what people do with networks ---


def test_a_frozen_kernel_gets_no_gradient_and_errors_pass():
    _, ruled = pair("batch_first", "feedback_alignment")
    ruled.in_proj_weight.requires_grad_(False)
    x = inputs(ruled)[0].clone().requires_grad_()
    ruled(x, x, x)[0].sin().sum().backward()
    assert ruled.in_proj_weight.grad is None and ruled.in_proj_bias.grad is not None and x.grad.any()


def test_where_the_own_rule_has_no_phase_it_sends_and_learns_nothing():
    text = """
    rule two {
      weight B : post -> pre ~ normal(0, 1)
      feedback send = B @ delta
      phase second { grad B = outer(x, delta) }
      schedule { each step : task, second }
    }
    """
    net, _ = readers()
    x = torch.randn(BATCH, LENGTH, 6).double().requires_grad_()
    convert(net, "backprop", output=ruledsl.parse(text), example=x, seed=0)
    F.cross_entropy(net(x), torch.tensor([0, 1, 2])).backward()
    assert net.attention.in_proj_weight.grad.any()
    advance(net)
    net.zero_grad()
    F.cross_entropy(net(x), torch.tensor([0, 1, 2])).backward()
    assert net.attention.in_proj_weight.grad is None and net.attention.in_proj_bias.grad is None
    assert net.head.B.grad.any()


def test_a_second_pseudo_gradient_of_rows_reaches_its_optimizer():
    text = """
    rule drawn {
      weight B : post -> pre ~ normal(0, 1)
      feedback send = B @ delta
      optimizer other = sgd(lr = 0.1)
      minimize sq(W - 1) over W by other
      locality { allow norm(W) -> W }
    }
    """
    _, ruled = pair("batch_first", ruledsl.parse(text))
    optimizer = optimizers(ruled, task=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    for _ in range(60):
        optimizer.zero_grad()
        ruled(*inputs(ruled))[0].sin().sum().backward()
        optimizer.step()
        advance(ruled)
    assert torch.allclose(ruled.in_proj_weight, torch.ones(()).double(), atol=1e-3)
    assert torch.allclose(ruled.out_proj.weight, torch.ones(()).double(), atol=1e-3)


def test_a_driven_phase_may_move_rows():
    text = """
    rule shrinking {
      extends backprop
      phase sleep { drive x = normal(0, 1)  W <- 0.5 * W }
      schedule { each step : task, sleep }
    }
    """
    _, ruled = pair("batch_first")
    ruled = nn.MultiheadAttention(EMBED, HEADS, batch_first=True)
    net = Reader(ruled).float()
    convert(net, ruledsl.parse(text), example=torch.randn(BATCH, LENGTH, 6), seed=0)
    before = net.attention.in_proj_weight.detach().clone()
    advance(net)
    assert torch.allclose(net.attention.in_proj_weight, 0.5 * before)


@pytest.mark.parametrize("rule", ["feedback_alignment", "kolen_pollack"])
def test_it_compiles_into_one_graph(rule):
    _, ruled = pair("batch_first", rule)
    x = inputs(ruled)[0].requires_grad_()
    compiled = torch.compile(lambda x: ruled(x, x, x, need_weights=False)[0], fullgraph=True, backend="aot_eager")
    found = []
    for run in (lambda x: ruled(x, x, x, need_weights=False)[0], compiled):
        ruled.zero_grad()
        run(x).sin().sum().backward()
        found.append([parameter.grad for parameter in ruled.parameters()])
    same(*found)


def test_torch_func_sees_its_parameters():
    _, ruled = pair("batch_first", "feedback_alignment")
    x = inputs(ruled)[0]
    parameters = dict(ruled.named_parameters())

    def loss(given):
        return torch.func.functional_call(ruled, given, (x, x, x))[0].sin().sum()

    found = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight"):
        assert torch.allclose(found[name], ruled.get_parameter(name).grad)
    doubled = {name: 2 * value for name, value in parameters.items()}
    assert not torch.allclose(torch.func.grad(loss)(doubled)["in_proj_weight"], found["in_proj_weight"])


def test_constraints_hold_for_rows():
    torch.manual_seed(0)
    module = nn.MultiheadAttention(EMBED, HEADS, batch_first=True)
    convert(module, "backprop", constraints=["frozen_signs"])
    signs = module.in_proj_weight.detach().sign().clone()
    optimizer, x = torch.optim.SGD(module.parameters(), lr=0.3), torch.randn(BATCH, LENGTH, EMBED)
    for _ in range(5):
        optimizer.zero_grad()
        module(x, x, x)[0].sin().sum().backward()
        optimizer.step()
        observe(module, progress=0.5)
        advance(module)
    assert torch.all(module.in_proj_weight * signs >= 0)
