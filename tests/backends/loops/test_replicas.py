"""Data parallel training: a step of two processes is the step of one with the joint batch, under every rule."""

from __future__ import annotations

import pytest
import torch
from backends.loops.replicas import Probe, alone, both

import ruledsl

ROOT = 'rule r "R" {{ fixed B : post -> pre ~ normal(0, sqrt(1 / fan_out))\nfeedback send = B @ delta\n{}\n}}'
FREE = 'rule r "R" {{ fixed B : post -> pre ~ normal(0, sqrt(1 / fan_out))\n{}\n}}'
FAR = "locality { allow modulate(delta[k])\nallow pool(batch)\nallow pool(units)\nallow pool(positions) }"
UNUSED = {"find_unused_parameters": True}

OWN = {
    "what `<-` averages": ROOT.format(
        "state T : pre -> post = 0\nT <- 0.9 * T + 0.1 * outer(u, x, mean=all)\ngrad W = outer(delta, x) + T"
    ),
    "a sum without errors": ROOT.format("state T : pre -> post = 0\nT <- 0.5 * T + 0.01 * outer(u, x)"),
    "a sum of errors": ROOT.format("state T : pre -> post = 0\nT <- 0.5 * T + outer(delta, x)"),
    "a sum with batch_size": ROOT.format("state T : pre -> post = 0\nT <- 0.5 * T + outer(u, x) / batch_size"),
    "the sign of a sum": ROOT.format("grad W = outer(delta, x) + 0.01 * sign(outer(delta, x))"),
    "a state of every unit": ROOT.format("state s : post = 0\ns <- 0.9 * s + total(std(u, batch))\ngrad b = s"),
    "errors averaged": ROOT.format("state s : post = 0\ns <- 0.9 * s + total(mean(delta, batch))"),
    "centred activity": ROOT.format(
        "grad W = outer(delta, center(x, batch))\nlocality { allow pool(batch)\nallow multiplex(pre -> post) }"
    ),
    "squared errors": ROOT.format("grad W = outer(delta * delta, x)"),
    "a batch brought to one length": ROOT.format(
        "grad W = outer(delta, normalize(x, batch))\nlocality { allow pool(batch)\nallow multiplex(pre -> post) }"
    ),
    "errors of each layer downstream, squared": ROOT.format("grad W = outer(delta, x) * sum(k, sq(delta[k]))\n" + FAR),
    "an error in a function": ROOT.format("grad W = outer(tanh(delta), x)"),
    "sums with errors and without": ROOT.format("grad W = outer(delta, x) + 0.01 * outer(u, x)"),
    "what is sent is no mean": FREE.format(
        "feedback send = B @ sign(delta) + 0.1 * x / batch_size\ngrad W = outer(delta, x)"
    ),
    "a number is sent": FREE.format("feedback send = 0.01\ngrad b = total(delta + 0.01 * u)"),
    "W assigned": ROOT.format("W <- W - 0.1 * outer(delta, x)"),
}
LIBRARY = [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule"]
REFUSED = {
    "errors of each layer downstream, squared, in what is sent": (
        Probe(FREE.format("feedback send = B @ delta + sum(k, sq(delta[k])) * x\n" + FAR)),
        "UserError: r: what replicas compute for send",
    ),
    "examples of several sizes": (Probe("weight_mirror", uneven=True), "convert with an example of the same size"),
    "mirrors in shards": (Probe("weight_mirror", around="fsdp"), "fully_shard has split its weights"),
    "what is drawn without a seed, in shards": (Probe("brsf", around="fsdp", seed=None), "seed=0"),
    "phases without find_unused_parameters": (Probe("activation_alignment"), "find_unused_parameters=True"),
    "phases and static_graph": (Probe("activation_alignment", options={"static_graph": True}), "static_graph"),
}
PROBES: dict[str, Probe] = {
    **{name: Probe(name, options=UNUSED if name == "activation_alignment" else {}) for name in LIBRARY},
    **{name: Probe(text) for name, text in OWN.items()},
    **{f"{name}, float32": Probe(name, torch.float32) for name in ("kolen_pollack", "weight_mirror", "backprop_noise")},
    "one optimizer": Probe("activation_alignment", options=UNUSED, single=True),
    "compiled": Probe("backprop_noise", around="compiled", steps=2),
    **{f"{name}, fully_shard": Probe(name, around="fsdp") for name in ("feedback_alignment", "kolen_pollack", "brsf")},
    "constraints": Probe("feedback_alignment", constraints=("constant_norm", "frozen_signs")),
    "two rules": Probe("weight_mirror", output="backprop"),
}
UNSEEDED = {f"{name} without a seed": Probe(name, seed=None) for name in ("weight_mirror", "brsf", "backprop_noise")}


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory):
    refused = {name: probe for name, (probe, _) in REFUSED.items()}
    return both(tmp_path_factory.mktemp("replicas"), {**PROBES, **UNSEEDED, **refused})


@pytest.mark.parametrize("name", PROBES)
def test_two_processes_are_one_with_the_joint_batch(name: str, replicas) -> None:
    probe, (one, other) = PROBES[name], (found[name] for found in replicas)
    assert not isinstance(one, str), one
    joint = alone(probe)
    limit = 1e-10 if probe.dtype == torch.float64 else 1e-5
    assert one.keys() == joint.keys()
    for tensor, value in joint.items():
        scale = max(1.0, value.abs().max().item())
        assert (one[tensor] - value).abs().max() <= limit * scale, tensor
        assert torch.equal(one[tensor], other[tensor]), tensor


@pytest.mark.parametrize("name", UNSEEDED)
def test_without_a_seed_the_processes_draw_alike(name: str, replicas) -> None:
    one, other = (found[name] for found in replicas)
    assert not isinstance(one, str), one
    assert all(torch.equal(value, other[tensor]) for tensor, value in one.items())


@pytest.mark.parametrize("name", REFUSED)
def test_what_replicas_cannot_do_is_refused(name: str, replicas) -> None:
    for found in replicas:
        assert REFUSED[name][1] in found[name]
