"""What `print` shows of a converted network, and what a type checker sees in a call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from backends.torch import small
from torch import nn

from ruledsl_torch import convert, optimizers

ROOT = Path(__file__).parents[3]


def lines(net):
    return [line.split() for line in str(net.ruledsl).splitlines()]


def test_every_layer_shows_its_rule_and_its_part():
    x, _ = small.batch(small.mlp())
    net = convert(small.mlp(), "kolen_pollack", rules={"fc2": None}, output="backprop", example=x)
    shown = str(net)
    assert "(fc1): Linear(in_features=6, out_features=8, bias=True, rule=kolen_pollack, part=first)" in shown
    assert "(fc2): Linear(in_features=8, out_features=5, bias=True)" in shown
    assert "(fc3): Linear(in_features=5, out_features=3, bias=True, rule=backprop, part=output)" in shown


def test_a_part_that_is_not_known_is_not_shown():
    net = convert(small.mlp(), "usf")
    assert "rule=usf)" in str(net) and "part=" not in str(net)
    assert lines(net)[1][:4] == ["fc1", "Linear", "usf", "?"]
    assert "example=" in str(net.ruledsl)


def test_a_layer_may_be_first_and_at_the_output():
    assert "part=first and output" in str(convert(nn.Linear(6, 3), "backprop", example=torch.zeros(2, 6)))


def test_layers_left_alone_are_in_the_ledger_of_the_whole():
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 3))
    convert(net, rules={"0": None, "1": "feedback_alignment", "2": None}, example=torch.zeros(2, 4))
    shown = str(net.ruledsl)
    assert "ledger: nonlocal" in shown
    assert "  the framework's own backpropagation (2): nonlocal" in shown
    assert "  the framework's own backpropagation (0, which sends to nobody): local" in shown


def test_the_table_says_what_the_network_is_made_of():
    x, _ = small.batch(small.convnet())
    rules = {"conv1": "activation_alignment", "conv2": None, "conv3": ("kolen_pollack", {"decay": 0.5})}
    net = convert(small.convnet(), "direct_feedback_alignment", rules=rules, constraints="frozen_signs", example=x)
    net.conv3.weight.requires_grad_(False)
    head, *rows = lines(net)
    assert head == ["layer", "kind", "rule", "part", "parameters", "learns"]
    assert rows[0][:4] == ["conv1", "Conv2d", "activation_alignment", "first"]
    assert " ".join(rows[0]).endswith("W, b, B by align")
    assert " ".join(rows[1]) == "conv3 Conv2d kolen_pollack hidden decay = 0.5 W (frozen), B, b"
    assert " ".join(rows[2]) == "fc Linear direct_feedback_alignment output W, b"
    shown = str(net.ruledsl)
    assert repr(net.ruledsl) == shown and " at 0x" not in shown
    assert "ledger: nonlocal" in shown and "  activation_alignment (conv1" in shown and "): local" in shown
    assert "after every step: frozen_signs" in shown
    assert "phases: in turn task, align; in step 0: task" in shown
    assert "not converted: conv2: left alone" in shown
    assert "optimizers: task, align, which ruledsl_torch.optimizers(net, task=...) makes" in shown
    optimizers(net, task=lambda p: torch.optim.SGD(p, lr=0.1))
    assert "optimizers: task = SGD, align = Adam" in str(net.ruledsl)


SAMPLE = """
from ruledsl_torch import advance, convert, observe, optimizers, unconvert
from torch import nn

net = nn.Sequential(nn.Linear(6, 3))
rules = {"head*": "backprop", "conv*": ("kolen_pollack", {"decay": 0.1}), "*": None}
convert(net, "usf", output="backprop", example=(net, net), constraints="frozen_signs", seed=3, decay=0.1)
convert(net, rules={"head*": "backprop", "conv*": ("kolen_pollack", {"decay": 0.1}), "*": None})
observe(net, target=net, progress=0.5)
optimizers(net, task="sgd", align=("adam", {"lr": 0.1}))
advance(net)
unconvert(net)
convert(net, "usf", ouptut="backprop")  # wrong
convert(net, "usf", constraint=["frozen_signs"])  # wrong
observe(net, tagret=[1, 2])  # wrong
advance(net, steps=2)  # wrong
unconvert(net, rule="usf")  # wrong
optimizers(net, task=0.1)  # wrong
"""
SETTINGS = f"""
[mypy]
python_version = 3.11
mypy_path = {ROOT}:{ROOT / "backends"}
follow_imports = silent
[mypy-torch.*,numpy.*,lark.*,pydantic.*,jinja2.*]
follow_imports = skip
"""


@pytest.mark.skipif(sys.platform == "win32", reason="mypy separates the folders by another sign")
def test_a_type_checker_finds_a_wrong_keyword(tmp_path):
    sample, settings = tmp_path / "sample.py", tmp_path / "mypy.ini"
    sample.write_text(SAMPLE)
    settings.write_text(SETTINGS)
    command = [sys.executable, "-m", "mypy", "--config-file", settings, "--cache-dir", tmp_path / "cache", sample]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    wrong = {number for number, line in enumerate(SAMPLE.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wrong, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["ruledsl", "backends/ruledsl_torch", "backends/ruledsl_jax"])
def test_packages_say_that_they_are_typed(name):
    assert (ROOT / name / "py.typed").exists()  # that it is shipped is a test of the packaging
