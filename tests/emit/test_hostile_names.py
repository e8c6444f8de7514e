"""A rule file is untrusted input: no text, name or number in it becomes code, and no name of it breaks the module."""

from __future__ import annotations

import ast
from importlib import import_module

import pytest
import torch

import ruledsl
from ruledsl.diagnostics import RuleError
from ruledsl.verification.executor import compare
from ruledsl.verification.geometries import DENSE

BACKENDS = ("torch", "jax")

# What the emitted modules, their runtimes, Python or the generated functions call something themselves.
WORDS = """
    torch jax jnp math numpy layer key generator shape dims axes axis keepdim zip len print float int open exec eval
    compile globals type object range self cls match case bias forward training parameters module fn init_B grad_W
    next_s draw_N send_ outer_delta_x delta_at_k D_at_k g p W_ x_ product ratio where mul l O I e2 nan
    NotImplemented T k layer_ key_
"""
NAMES = WORDS.split()
ROLES = {
    "parameter": "param {0} = 0.5",
    "switch": "static param {0} = 0.5",
    "name": "let {0} = 2 * relu(lr)",
    "scalar": "state {0} : scalar = 1  {0} <- {0} + 1",
}
AROUND = """
  fixed B : post -> pre ~ normal(0, {0} + 1)
  fresh N : post -> pre ~ normal(0, 1)
  fixed D : post[far] -> pre ~ kaiming()
  state s : post = 0
  let G = outer(delta, x)
  feedback send = {0} * ((B + N) @ delta) + sum(far, D[far] @ ({0} * delta[far]))
  grad W = {0} * G + 0.1 * W
  s <- total({0} * s + u * sum(far, norm(D[far])))
  locality {{ allow broadcast(delta[far])  allow pool(positions) }}
"""
MAP = """
  weight {0} : post -> pre ~ normal(0, 1)
  fixed other : pre -> post = {0}.T
  feedback send = ({0} + N) @ delta
  fresh N : post -> pre ~ normal(0, 1)
  grad {0} = outer(x, delta) + 0.1 * {0}
  grad W = other + {0}.T * W
  locality {{ allow value({0}) }}
"""


def assert_equal_to_the_reference(text: str, backend: str) -> None:
    rule = ruledsl.parse(text)
    program = rule.compile(backend)
    executor = import_module(f"ruledsl_{backend}.executor").executor
    for deviation in compare(program, rule.lowered, executor, DENSE[0], "float64"):
        assert deviation.within, (deviation, program.source)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_python_or_of_the_module_can_name_a_value(name: str) -> None:
    for role in ROLES.values():
        assert_equal_to_the_reference(f"rule r {{ {role.format(name)} {AROUND.format(name)} }}", "torch")


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_such_name_can_name_a_map(backend: str) -> None:
    for name in NAMES:
        assert_equal_to_the_reference(f"rule r {{ {MAP.format(name)} }}", backend)


def test_all_of_them_fit_into_one_rule() -> None:
    declared = "\n".join(f"param {name} = 0.{number + 1}" for number, name in enumerate(NAMES))
    total = " + ".join(NAMES[:40]) + "\n let more = " + " + ".join(NAMES[40:])
    text = f"rule r {{\n{declared}\n let whole = {total}\n feedback send = (whole + more) * x\n}}"
    for backend in BACKENDS:
        assert_equal_to_the_reference(text, backend)


@pytest.mark.parametrize(
    "name", ["__import__", "__builtins__", "_private", "import", "lambda", "None", "while", "dеlta"]
)
def test_a_name_that_python_could_not_have_is_refused(name: str) -> None:
    with pytest.raises(RuleError):
        ruledsl.parse(f"rule r {{ param {name} = 1  feedback send = {name} * x }}")


TEXTS = [
    '\\"\\"\\"',
    '\\"\\"\\"; import os; os.system(0); \\"\\"\\"',
    "'''",
    "\\\\",
    "ends with a backslash \\\\",
    'ends with a quote \\"',
    "{{ 7 * 7 }}",
    "{% for a in [].__class__.__base__.__subclasses__() %}{% endfor %}",
    "{# comment #}",
    "{0} {name!r} {",
    "}} {{ }",
    "%s %(name)s %",
    "\\\\N{BULLET} \\\\x41 \\\\u0041 \\\\",
    "${HOME} `id` $(id)",
    "# noqa\t# type: ignore",
    "Ünïcödé — 学習則 🧠",
    " ",
    "",
    "x" * 3000,
    "word " * 600,
]


def shape_of(source: str) -> str:
    """The syntax tree of a module without its docstrings and its digest."""
    module = ast.parse(source)
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(module)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_the_author_stay_texts(text: str, backend: str) -> None:
    rule = 'rule r "{0}" {{ source "{0}"  param rate = 0.5 "{0}"  feedback send = rate * x }}'
    program = ruledsl.parse(rule.format(text)).compile(backend)
    harmless = ruledsl.parse(rule.format("harmless")).compile(backend)
    assert shape_of(program.source) == shape_of(harmless.source)
    assert program.module.send(x=3.0) == 1.5
    assert all(len(line) <= 120 for line in program.source.splitlines() if " " in line.strip())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("text", TEXTS)
def test_comments_of_the_author_stay_out_of_the_module(text: str, backend: str) -> None:
    rule = f"rule r {{ # {text}\n feedback send = x # {text}\n}}"
    program = ruledsl.parse(rule).compile(backend)
    assert shape_of(program.source) == shape_of(ruledsl.parse("rule r { feedback send = x }").compile(backend).source)


@pytest.mark.parametrize(
    "written",
    [
        "0",
        "1",
        "0.1",
        ".5",
        "10.",
        "1e-3",
        "2E+4",
        "1e22",
        "123456789",
        "1e308",
        "5e-324",
        "0.30000000000000004",
        "inf",
    ],
)
def test_a_number_is_emitted_with_its_value(written: str) -> None:
    for text in (f"param a = {written}  feedback send = a * x", f"feedback send = x * {written}"):
        program = ruledsl.parse(f"rule r {{ {text} }}").compile("torch")
        assert float(program.module.send(x=torch.tensor(1.0, dtype=torch.float64))) == float(written)


def test_a_negative_base_keeps_its_brackets() -> None:
    text = "rule r { param a = -3  feedback send = (-2) ** 2 * x + a ** 2 * x - (-1) * x }"
    program = ruledsl.parse(text).compile("torch")
    assert float(program.module.send(x=torch.tensor(1.0))) == 14.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_value_and_an_equation_may_wish_for_the_same_function(backend: str) -> None:
    """The value has as many arguments as the equation, so that a call of the wrong one would pass unnoticed."""
    shared = """
    rule r {
      weight B : post -> pre ~ normal(0, 1)
      let grad_W = outer(delta, x)
      feedback send = B @ delta
      grad W = outer(u, x)
      grad B = grad_W.T + 0.1 * B
      grad B = grad_W.T - B by second
      optimizer second = sgd(lr = 0.1)
    }
    """
    assert_equal_to_the_reference(shared, backend)
    second = """
    rule r {
      weight B : post -> pre ~ normal(0, 1)
      weight B_by_q : post -> pre ~ normal(0, 1)
      optimizer q = sgd(lr = 0.1)
      feedback send = (B + B_by_q) @ delta
      grad B = outer(x, delta)
      grad B = outer(x, u) by q
      grad B_by_q = outer(x, u - delta)
      locality { allow multiplex(post -> pre) }
    }
    """
    assert_equal_to_the_reference(second, backend)
