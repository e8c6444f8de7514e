"""What replicas of a network bring together stands in the emitted functions, and nothing else does."""

from __future__ import annotations

import re

import pytest

import ruledsl

RULE = 'rule r "R" {{ weight B : post -> pre ~ normal(0, 1)\n{}\n}}'
POOL = "\nlocality { allow pool(batch)\nallow pool(units)\nallow multiplex(post -> pre) }"


def emitted(body: str) -> str:
    return ruledsl.parse(RULE.format(body)).compile("torch").source


@pytest.mark.parametrize(
    "name", ["backprop", "feedback_alignment", "kolen_pollack", "drtp", "oja", "symmetric_alignment"]
)
def test_gradients_that_average_are_left_to_who_averages_them(name: str) -> None:
    assert not re.search(r"\bjoint", ruledsl.load(name).compile("torch").source)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (
            "feedback send = B @ delta\ngrad W = std(outer(tanh(u), x)) * outer(delta, x)",
            "joint(layer, layer.outer(torch.tanh(u), x), -1)",
        ),
        ("feedback send = B @ delta\nB <- B + outer(x, u)", "B + joint(layer, layer.outer(u, x), -1)"),
        ("feedback send = B @ delta\nB <- B + outer(x, u, mean=all)", 'B + layer.outer(u, x, mean="all")'),
        ("feedback send = B @ delta\nB <- B + outer(x, u) / batch_size", 'B + layer.outer(u, x, mean="batch")'),
        ("feedback send = B @ center(delta, batch)", "joint(layer, delta.mean(0, keepdim=True))"),
        ("feedback send = B @ sign(delta)", "own_errors(layer, send(layer, B, delta))"),
        ("feedback send = B @ delta\ngrad W = outer(tanh(delta), x)", "delta = joint_errors(layer, delta)"),
    ],
)
def test_sums_over_the_batch_are_brought_together_where_shares_would_not_average(body: str, line: str) -> None:
    assert line in emitted(body + POOL)


def test_only_phases_that_bring_something_together_know_of_replicas() -> None:
    source = ruledsl.load("weight_mirror").compile("torch").source
    task, mirror = source.split("def mirror(self, x):")
    assert "self.joint_map(x)" in mirror and "self.joint_map(x)" not in task


def test_a_standalone_file_brings_what_replicas_take() -> None:
    assert "def joint(layer" in ruledsl.load("weight_mirror").compile("torch", standalone=True).source
