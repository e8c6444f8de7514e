"""The compiler from end to end, and what it loads on the way."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ruledsl
from ruledsl.diagnostics import RuleError
from ruledsl.pipeline import compile_rule
from ruledsl.source import Source

TEXT = """rule r {
  static param twice = true
  fixed B : post -> pre ~ normal(0, 1)
  feedback send = (if twice then 2 else 1) * (B @ delta)
}
"""


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_text_becomes_a_program(backend: str) -> None:
    program = compile_rule(Source(TEXT), backend)
    assert program.source == ruledsl.parse(TEXT).compile(backend).source
    assert "2 * " in program.source
    assert "2 * " not in compile_rule(Source(TEXT), backend, {"twice": False}).source


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(RuleError) as raised:
        compile_rule(Source("rule r {\n  grad W = nothing\n  grad b = no_more\n}"), "torch")
    assert [d.code for d in raised.value.diagnostics] == ["E0201", "E0201"]


def test_checking_a_rule_loads_neither_numpy_nor_templates() -> None:
    load = "import sys, ruledsl; ruledsl.load('weight_mirror')"
    script = f"{load}; print(*sorted({{'numpy', 'jinja2'}} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.strip() == ""
