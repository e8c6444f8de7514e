"""Networks of Hugging Face with random weights: with B set to W.T they learn as by backprop, and under every rule.

Nothing is fetched from a hub.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from backends.torch import passes, small
from torch import Tensor, nn
from torch.nn import functional as F

import ruledsl
from ruledsl.errors import RuleWarning, UserError
from ruledsl_torch import advance, convert, observe
from ruledsl_torch.optimization import optimizers

transformers.logging.set_verbosity_error()

WORDS, WIDTH, CLASSES, BATCH, LENGTH = 11, 8, 3, 3, 6
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=WORDS, max_position_embeddings=LENGTH, num_labels=CLASSES, **SIZES, **CALM
    )
    return transformers.BertForSequenceClassification(config)


def llama() -> nn.Module:
    options = {"bos_token_id": 0, "eos_token_id": 0, "num_key_value_heads": 1, "max_position_embeddings": LENGTH}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=WORDS, **options, **SIZES))


def vit() -> nn.Module:
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_labels=CLASSES, **SIZES, **CALM)
    return transformers.ViTForImageClassification(config)


def resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=CLASSES
    )
    return transformers.ResNetForImageClassification(config)


def gpt2(tied: bool = True) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=WORDS,
        n_positions=LENGTH,
        n_embd=WIDTH,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=tied,
    )
    return transformers.GPT2LMHeadModel(config)


class Sample(NamedTuple):
    """How a network is made, its input, the labels, and how many weight layers it has."""

    build: Callable[[], nn.Module]
    x: Tensor
    labels: Tensor
    layers: int


WORDS_IN = torch.randint(WORDS, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(BATCH) % CLASSES


def images(size: int) -> Tensor:
    return torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


ZOO = {
    "bert": Sample(bert, WORDS_IN, LABELS, 3 + 2 * 6 + 2),
    "llama": Sample(llama, WORDS_IN, WORDS_IN, 1 + 2 * 7 + 1),
    "vit": Sample(vit, images(8), LABELS, 1 + 2 * 6 + 1),
    "resnet": Sample(resnet, images(16), LABELS, 1 + 2 + 3 + 1),
    "gpt2": Sample(gpt2, WORDS_IN, WORDS_IN, 2 + 2 * 4 + 1),
}
RULES = [name for name in passes.library() if ruledsl.load(name).kind == "rule"]
NO_CLASSES = "the network's output is not .batch, classes."
OTHER_BATCH = "target for 3 examples for this batch of 1"
REFUSED = {
    # A rule that reads e or the target has one error for an example, and these networks one for a word.
    **{
        (name, rule): NO_CLASSES
        for name in ("gpt2", "llama")
        for rule in ("direct_feedback_alignment", "direct_kolen_pollack", "direct_sign_symmetry", "drtp")
    },
    # Bert looks up positions once for all examples.
    ("bert", "drtp"): OTHER_BATCH,
}


class Logits(nn.Module):
    """The logits of a network that returns more."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x).logits
        return logits


def built(sample: Sample) -> nn.Module:
    torch.manual_seed(0)
    return sample.build().double()


def converted(net: nn.Module, rule: Any, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is skipped: tables of embeddings, and parameters outside of layers
        return convert(net, rule, seed=0, **options)


def gradients(net: nn.Module, sample: Sample) -> dict[str, Tensor]:
    net.zero_grad()
    net(sample.x, labels=sample.labels).loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ZOO)
def test_with_B_set_to_the_transpose_every_gradient_is_that_of_backprop(name):
    sample = ZOO[name]
    plain = built(sample)
    net = converted(copy.deepcopy(plain), "feedback_alignment")
    assert len(net.ruledsl.layers) == sample.layers
    right, others = gradients(plain, sample), gradients(net, sample)
    first = max(small.relative(others[path], value) for path, value in right.items())
    with torch.no_grad():
        for layer in net.ruledsl.layers.values():
            layer.B.copy_(layer.weight)
    found = gradients(net, sample)
    assert found.keys() == right.keys()
    assert first > 0.1  # it is another rule
    for path, value in right.items():
        assert small.relative(found[path], value) <= 1e-8, path


@pytest.mark.parametrize("name", ZOO)
def test_checkpoints_of_the_plain_network_still_load(name):
    plain = built(ZOO[name])
    net = converted(built(ZOO[name]), "feedback_alignment")
    assert [key for key in net.state_dict() if not key.endswith(".B")] == list(plain.state_dict())
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert all(key.endswith(".B") for key in missing) and not unexpected


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ZOO)
def test_every_rule_trains_it(name, rule):
    sample = ZOO[name]
    net = Logits(built(sample))
    try:
        train(net, rule, sample)
    except UserError as error:
        assert re.search(REFUSED.get((name, rule), "refused for no good reason"), str(error))


def train(net: nn.Module, rule: str, sample: Sample) -> None:
    """A few steps, after which everything is finite and every weight layer has moved."""
    output = "backprop" if rule.startswith("oja") else None
    converted(net, rule, output=output, example=sample.x)
    before = {path: layer.weight.detach().clone() for path, layer in net.ruledsl.layers.items()}
    optimizer = optimizers(net, task=lambda parameters: torch.optim.SGD(parameters, lr=1e-3))
    while net.ruledsl.step < 3:
        if sample.labels.dim() == 1:
            observe(net, target=sample.labels)
        if net.ruledsl.sees_batch:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(sample.x).flatten(0, -2), sample.labels.flatten())
            loss.backward()
            assert loss.isfinite()
            optimizer.step()
        advance(net)
    assert all(value.isfinite().all() for value in net.state_dict().values())
    still = [path for path, layer in net.ruledsl.layers.items() if torch.equal(layer.weight, before[path])]
    assert not still


# --- one weight for the first and the last layer ---


def test_feedback_that_learns_from_its_own_layer_is_warned_of_a_shared_weight():
    with pytest.warns(RuleWarning, match=r"transformer\.wte and lm_head share a weight, and B learns"):
        convert(gpt2(), "kolen_pollack", seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuleWarning)
        convert(gpt2(tied=False), "kolen_pollack", seed=0)
        convert(gpt2(), "feedback_alignment", seed=0)
        convert(gpt2(), "symmetric_alignment", seed=0)


def test_a_dense_layer_of_gpt2_is_one_like_any_other():
    """An nn.Linear with the transposed kernel: the same gradients under feedback alignment."""
    torch.manual_seed(0)
    theirs, ours = transformers.pytorch_utils.Conv1D(5, 4).double(), nn.Linear(4, 5, dtype=torch.float64)
    with torch.no_grad():
        ours.weight.copy_(theirs.weight.T)
        ours.bias.copy_(theirs.bias.normal_())
    converted(theirs, "kolen_pollack"), converted(ours, "kolen_pollack")
    with torch.no_grad():
        ours.B.copy_(theirs.B.T)
    x = torch.randn(2, 3, 4).double()
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for layer, given in zip((theirs, ours), inputs, strict=True):
        layer(given).sin().sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad)
    for name in ("weight", "B"):
        assert torch.allclose(getattr(theirs, name).grad, getattr(ours, name).grad.T)
    assert torch.allclose(theirs.bias.grad, ours.bias.grad)
