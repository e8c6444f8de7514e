"""What networks of Hugging Face are made of, without the package: its Conv1D, and one weight for two layers.

`make test-zoo` tries the real ones.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ruledsl.errors import RuleWarning
from ruledsl_torch import convert
from ruledsl_torch.linear import KINDS, recognised


class Conv1D(nn.Module):
    """As in transformers.pytorch_utils: u = x @ W + b with W: [nx, nf]"""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class is called like the one of the package; what is learned of it here is forgotten afterwards."""
    monkeypatch.setattr(Conv1D, "__module__", "transformers.pytorch_utils")
    monkeypatch.setitem(KINDS, Conv1D, KINDS[nn.Linear])
    monkeypatch.delitem(KINDS, Conv1D)


def dense(rule: str) -> tuple[nn.Module, nn.Module]:
    """A Conv1D and an nn.Linear with the transposed weight, under a rule, with the same feedback."""
    torch.manual_seed(0)
    theirs, ours = Conv1D(5, 4).double(), nn.Linear(4, 5, dtype=torch.float64)
    with torch.no_grad():
        ours.weight.copy_(theirs.weight.T)
        ours.bias.copy_(theirs.bias)
    convert(theirs, rule, seed=0), convert(ours, rule, seed=0)
    with torch.no_grad():
        for name, value in ours.state_dict().items():
            value.copy_(theirs.state_dict()[name].t())
    return theirs, ours


@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment", "usf_sn", "kolen_pollack", "oja"])
def test_it_is_a_dense_layer_with_a_transposed_kernel(rule):
    found = []
    for layer, turned in zip(dense(rule), (True, False), strict=True):
        x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
        layer(x).sin().sum().backward()
        kernels = {name: p.grad.t() if turned else p.grad for name, p in layer.named_parameters()}
        found.append({"x": x.grad, **kernels})
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name]), name


def test_an_example_without_batch_is_a_batch_of_one():
    theirs, ours = dense("feedback_alignment")
    x = torch.randn(4).double()
    assert torch.allclose(theirs(x), ours(x))


def test_its_copies_know_the_rule():
    theirs, _ = dense("feedback_alignment")
    twin = copy.deepcopy(theirs)
    assert type(twin) is type(theirs) and torch.equal(twin.B, theirs.B)


def test_it_is_found_by_name_alone():
    class Other(nn.Module):
        pass

    assert recognised(Conv1D) and KINDS[Conv1D][1] == 1
    assert not recognised(Other) and Other not in KINDS


def test_a_layer_of_any_kind_is_unpickled_where_nothing_was_converted():
    net = convert(nn.Sequential(nn.Conv1d(2, 3, 1), nn.MultiheadAttention(4, 2)), "feedback_alignment", seed=0)
    read = "import pickle, sys; net = pickle.load(sys.stdin.buffer); print(*(type(m).__name__ for m in net.modules()))"
    done = subprocess.run([sys.executable, "-c", read], input=pickle.dumps(net), capture_output=True, check=True)
    assert done.stdout.decode().split() == [type(module).__name__ for module in net.modules()]


class Tied(nn.Module):
    """Words to words, with one weight: [batch, length] -> [batch, length, 7]"""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(x)))


WORDS = torch.tensor([[1, 2, 3], [0, 6, 2]])


def test_a_shared_weight_gets_what_both_layers_teach():
    torch.manual_seed(0)
    plain = Tied()
    net = convert(copy.deepcopy(plain), "feedback_alignment", seed=0)
    with torch.no_grad():
        net.head.B.copy_(net.head.weight)
    for each in (plain, net):
        F.cross_entropy(each(WORDS).flatten(0, 1), WORDS.flatten()).backward()
    assert net.head.weight is net.table.weight
    assert torch.allclose(net.head.weight.grad, plain.head.weight.grad)


def test_feedback_that_learns_from_its_own_layer_is_warned_of_a_shared_weight():
    with pytest.warns(RuleWarning, match=r"(?s)table and head share a weight, and B learns.*untie them"):
        convert(Tied(), "kolen_pollack")


def test_other_feedback_is_at_home_with_a_shared_weight():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuleWarning)
        for rule in ("feedback_alignment", "symmetric_alignment", "usf"):
            convert(Tied(), rule)
        convert(Tied(), "kolen_pollack", output="backprop", example=WORDS)  # a table of embeddings sends to nobody
        convert(nn.MultiheadAttention(4, 2), "kolen_pollack")  # rows of one parameter, and no row is anybody else's
        net = nn.Linear(4, 4)
        convert(nn.Sequential(net, nn.Tanh(), net), "kolen_pollack")
