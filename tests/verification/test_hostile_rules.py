"""Mutated rules get diagnostics, or become code that does nothing but compute; each within a second."""

from __future__ import annotations

import pytest

import ruledsl
from generators.harmless import harmless
from generators.hostile import judged, texts
from generators.many import all_of

FEW, MANY = 500, 100_000


@pytest.mark.parametrize("first", range(0, FEW, 100))
def test_mutated_rules_are_judged_in_peace(first: int) -> None:
    assert [problem for seed in range(first, first + 100) for problem in judged(seed)] == []


@pytest.mark.long
def test_a_hundred_thousand_mutated_rules_are_judged_in_peace() -> None:
    assert all_of(judged, range(FEW, FEW + MANY)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "print(1)",
        "def f(x):\n    return open(x)",
        "def f(x):\n    return x.__class__",
        "def f(x):\n    return (lambda: x)()",
        "def f(x):\n    import os\n    return x",
        "def f(x):\n    x.clear()\n    return x",
        "def f(x=print(1)):\n    return x",
        "def f(x):\n    global y\n    y = x\n    return y",
        "from os import system",
        "from torch import load",
        "class A:\n    print(1)",
        "class A:\n    x = open(1)",
        "class A(open):\n    x = 1",
        "class A:\n    def f(self):\n        return eval(self)",
        "class A:\n    def f(self):\n        from os import system\n        return system",
        "class A:\n    def f(self):\n        return self.__dict__",
        "class A:\n    def f(self):\n        while self:\n            return self",
        "def f(x):\n    return A\n\n\nclass A:\n    x = 1",
        "def f(x):\n    for y in x:\n        return y",
        "def f(x):\n    return open(sum(open for open in x))",
        "def f(x):\n    x.y = 1\n    return x",
        "def f(x):\n    x[0] = 1\n    return x",
        "import jax.numpy as jnp\n\n\ndef f(x):\n    jnp.sum = x\n    return x",
        "import torch\n\n\ndef f(x):\n    return torch.load(x)",
        "import jax\n\n\ndef f(x):\n    return jax.debug.print(x)",
        "import jax.numpy as jnp\n\n\ndef f(x):\n    return jnp.load(x)",
        "import jax.numpy as jnp\n\n\ndef f(x):\n    y = jnp\n    return y.load(x)",
        "from jax import jit",
        "from typing import get_type_hints",
        "from functools import reduce",
        "from .layers import x",
        "from ruledsl_jax.mesh import vary_alike\n\n\ndef f(x):\n    return vary_alike(x)",
        "from ruledsl_jax.mesh import vary_alike\n\n\n@vary_alike\ndef f(x):\n    return x",
        "from ruledsl_jax.mesh import vary_alike\n\n\ndef f(x=vary_alike(1)):\n    return x",
        "x = 1",
        "import jax\n\njax.numpy",
        "def f(x):\n    return x\n\n\nf(1)",
        "def f(x):\n    return x\n\n\nf.defvjp(f, f)",
    ],
)
def test_code_that_was_smuggled_in_is_recognised(code: str) -> None:
    assert harmless(code)


KNOWN = """from __future__ import annotations
from functools import partial
from typing import NamedTuple
import jax
import optax
from jax import Array
from ruledsl_jax.linear import Linear

"""
MAKER = """def make(x):
    def init(params):
        {}

    def update(updates):
        {}

    return optax.GradientTransformation(init, update)
"""


@pytest.mark.parametrize(
    "code",
    [
        "class A(NamedTuple):\n    x: Array = open(1)",
        "class A(NamedTuple):\n    x: open",
        "class A(NamedTuple):\n    x: print(1)",
        "class A(NamedTuple):\n    x = 1",
        "class A(NamedTuple):\n    def f(self) -> Array:\n        return self",
        "class A(NamedTuple, metaclass=Linear):\n    x: Array",
        "@partial\nclass A(NamedTuple):\n    x: Array",
        "def init(layer: Linear) -> Array:\n    return open(layer)",
        "def init(layer: print(1)) -> Array:\n    return layer",
        "def init(layer: Linear) -> eval:\n    return layer",
        "def init(layer: Linear) -> Array:\n    return layer.__class__",
        "def init(layer: Linear) -> Array:\n    return jax.debug.print(layer)",
        "def init(layer: Linear) -> Array:\n    return (lambda: layer)()",
        "def init(layer: Linear) -> Array:\n    return jax.tree.map(layer, lambda x: x)",
        "def init(layer: Linear) -> Array:\n    raise ValueError('no')",
        "def init(layer: Linear) -> Array:\n    layer.clear()\n    return layer",
        "def init(layer: Linear) -> Array:\n    layer.x = 1\n    return layer",
        "def init(layer: Linear) -> Array:\n    import os\n    return os",
        "def init(layer: Linear) -> Array:\n    if layer.clear():\n        return layer",
        "def init(layer: Linear) -> Array:\n    for x in layer:\n        return x",
        "def init(layer: Linear) -> Array:\n    while layer is None:\n        return layer",
        "def init(layer: Linear) -> Array:\n    with layer:\n        return layer",
        "def init(layer: Linear) -> Array:\n    def f(open):\n        return open\n    return open(f)",
        "def init(layer: Linear) -> Array:\n    @jax.jit\n    def f(x):\n        return x\n    return f(layer)",
        "@jax.jit\ndef init(layer: Linear) -> Array:\n    return layer",
        "@partial(jax.custom_vjp, nondiff_argnums=(print(1),))\ndef affine(x):\n    return x",
        "@partial(jax.custom_vjp, nondiff_argnums=(0,))\ndef affine(x):\n    return open(x)",
        "@partial(jax.custom_vjp, nondiff_argnums=(0,))\ndef affine(x):\n    return x\n\n\n"
        "affine.defvjp(open, affine_bwd)",
        "def affine_bwd(x):\n    return partial(x)",
        MAKER.format("return params", "return updates").replace("Transformation", "TransformationExtra"),
        MAKER.format("return params", "return updates").replace("def init", "def other"),
        MAKER.format("return open(params)", "return updates"),
        MAKER.format("return params", "raise x"),
        MAKER.format("return params", "raise ValueError(print(1))"),
        MAKER.format("return params", "return (lambda: updates)()"),
        MAKER.format("return params", "return jax.tree.map(updates, lambda: updates)"),
        MAKER.format("return params", "return optax.apply_updates(updates, x)"),
        MAKER.format("return params", "return x._replace()"),
    ],
)
def test_code_that_was_smuggled_into_the_frame_is_recognised(code: str) -> None:
    assert harmless(KNOWN + code)


def test_the_frame_without_anything_smuggled_in_is_harmless() -> None:
    fields = "class A(NamedTuple):\n    x: Array | None\n\n\n"
    derived = "@partial(jax.custom_vjp, nondiff_argnums=(0,))\ndef affine(x):\n    return x\n\n\n"
    derived += "".join(f"def affine_{end}(x):\n    return affine(x)\n\n\n" for end in ("fwd", "bwd"))
    derived += "affine.defvjp(affine_fwd, affine_bwd)"
    typed = "def init(x: Linear) -> Array:\n    if x is None:\n        return A(1)\n    return partial(x)"
    complaint = 'raise ValueError("no")'
    for code in (fields, derived, fields + typed, MAKER.format("return params", "return jax.tree.map(lambda p: p, x)")):
        assert harmless(KNOWN + code) == []
    assert harmless(KNOWN + MAKER.format("return params", complaint)) == []


def test_what_the_library_compiles_to_is_harmless() -> None:
    assert texts()
    for name in ruledsl.names():
        for backend in ("torch", "jax"):
            assert harmless(ruledsl.load(name).compile(backend).source) == []


def test_titles_sources_and_documentation_cannot_end_their_docstring() -> None:
    title = '\\"\\"\\"; import os; \\"\\"\\" {{ 1 }} {% raw %} \\\\'
    text = f'rule a "{title}" {{ source "{title}" param decay = 0.1 "{title}" grad W = outer(delta, x) + decay * W\n'
    rule = ruledsl.parse(text + "locality { allow reverse(W) -> send } }")
    for backend in ("torch", "jax"):
        assert harmless(rule.compile(backend).source) == []
