"""Converted networks under torch.compile(fullgraph=True): the same numbers, and no compilation at every step."""

from __future__ import annotations

import pytest
import torch
from backends.torch import handwritten, small

from ruledsl_torch import convert


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()


def same_as_eager(program, build, backend, tolerance, **options):
    runs = []
    for compiled in (False, True):
        net = build()
        x, labels = small.batch(net)
        convert(net, program, example=x, seed=0, **options)
        run = torch.compile(net, fullgraph=True, backend=backend) if compiled else net
        runs.append(small.train(net, x, labels, steps=4, run=run))
    for name, value in runs[0].items():
        if name != "norm.num_batches_tracked":
            assert small.relative(runs[1][name], value) <= tolerance, name


@pytest.mark.parametrize("program", handwritten.EVERY.values(), ids=handwritten.EVERY)
def test_every_rule_compiles_to_one_graph_with_the_same_numbers(program):
    with torch._dynamo.config.patch(error_on_recompile=True):
        same_as_eager(program, small.convnet, "aot_eager", 1e-6)


def test_activations_of_either_form_compile():
    names = {"fc1": torch.relu, "fc2": torch.nn.Tanh(), "fc3": "identity"}
    same_as_eager(handwritten.reads_phi, small.mlp, "aot_eager", 1e-6, activations=names)


@pytest.mark.parametrize(
    "program", [handwritten.direct_feedback_alignment, handwritten.running_mean], ids=lambda p: p.rule
)
def test_inductor_gives_the_same_numbers(program):
    same_as_eager(program, small.mlp, "inductor", 1e-5)


def test_a_last_batch_of_another_size_compiles():
    net = small.mlp()
    x, labels = small.batch(net)
    convert(net, handwritten.direct_feedback_alignment, seed=0)
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    for size in (5, 3, 4):
        torch.nn.functional.cross_entropy(run(x[:size]), labels[:size]).backward()
