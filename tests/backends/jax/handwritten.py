"""Programs as the compiler emits them, written by hand: what the runtime is tested with, apart from the compiler."""

from __future__ import annotations

from typing import Any

from ruledsl.program import AFTER_STEP, INIT, TASK, Function, Program, Tensor

W = Tensor("W", "forward", ("pre", "post"), "grad")
BIAS = Tensor("b", "forward", ("post",), "grad")
GRAD_W = Function("grad", "grad_W", ("layer", "x", "delta"), target="W")
GRAD_b = Function("grad", "grad_b", ("layer", "delta"), target="b")
DEFAULTS = '''"""A rule."""

import math

import jax
import jax.numpy as jnp


def grad_W(layer, x, delta):
    return layer.outer(delta, x)


def grad_b(layer, delta):
    return layer.sum_to_units(delta)


'''
INIT_B = Function("init", "init_B", ("shape", "fan_out", "key"), phase=INIT, target="B")
NORMAL = """def init_B(shape, fan_out, key):
    return math.sqrt(1.0 / fan_out) * jax.random.normal(key, shape)


"""


def program(
    name: str,
    source: str,
    functions: tuple[Function, ...] = (),
    tensors: tuple[Tensor, ...] = (),
    parameters: dict[str, float] | None = None,
    **more: Any,
) -> Program:
    """A program; without functions of its own for them, W and b have the default pseudo-gradients."""
    own = {f.target for f in functions if f.role in ("grad", "assign")}
    defaults = [f for f in (GRAD_W, GRAD_b) if f.target not in own]
    forward = [t for t in (W, BIAS) if t.name not in {tensor.name for tensor in tensors}]
    return Program(
        name, "jax", DEFAULTS + source, (*functions, *defaults), (*forward, *tensors), parameters or {}, **more
    )


backprop = program(
    "backprop",
    "def send(layer, W, delta):\n    return layer.adjoint(W, delta)\n",
    (Function("send", "send", ("layer", "W", "delta")),),
)

feedback_alignment = program(
    "feedback_alignment",
    NORMAL + "def send(layer, B, delta):\n    return layer.adjoint(B, delta)\n",
    (INIT_B, Function("send", "send", ("layer", "B", "delta"))),
    (Tensor("B", "fixed", ("post", "pre"), feedback_only=True),),
)

usf_sn = program(
    "usf_sn",
    """def send(layer, W, delta):
    sign_W = jnp.sign(W)
    return layer.adjoint(jnp.linalg.norm(W.ravel()) / jnp.linalg.norm(sign_W.ravel()) * sign_W, delta)
""",
    (Function("send", "send", ("layer", "W", "delta")),),
)

kolen_pollack = program(
    "kolen_pollack",
    NORMAL
    + """def outer_delta_x(layer, x, delta):
    return layer.outer(delta, x)


def send(layer, B, delta):
    return layer.adjoint(B, delta)


def grad_W_and_decay(W, outer_delta_x, decay=1e-4):
    return outer_delta_x + decay * W


def grad_B(B, outer_delta_x, decay=1e-4):
    return outer_delta_x + decay * B
""",
    (
        INIT_B,
        Function("term", "outer_delta_x", ("layer", "x", "delta")),
        Function("send", "send", ("layer", "B", "delta")),
        Function("grad", "grad_W_and_decay", ("W", "outer_delta_x", "decay"), target="W"),
        Function("grad", "grad_B", ("B", "outer_delta_x", "decay"), target="B"),
    ),
    (Tensor("B", "weight", ("post", "pre"), "grad", feedback_only=True),),
    {"decay": 1e-4},
)

direct_feedback_alignment = program(
    "direct_feedback_alignment",
    """def init_B(shape, key):
    return 0.1 * jax.random.normal(key, shape)


def send(B, e):
    return jnp.tensordot(e, B, axes=1)
""",
    (
        Function("init", "init_B", ("shape", "key"), phase=INIT, target="B"),
        Function("send", "send", ("B", "e")),
    ),
    (Tensor("B", "fixed", ("out", "pre"), feedback_only=True),),
)

direct_target = program(
    "direct_target",
    """def init_B(shape, key):
    return 0.1 * jax.random.normal(key, shape)


def send(B, target):
    return -jnp.tensordot(target, B, axes=1)
""",
    (
        Function("init", "init_B", ("shape", "key"), phase=INIT, target="B"),
        Function("send", "send", ("B", "target")),
    ),
    (Tensor("B", "fixed", ("out", "pre"), feedback_only=True),),
)

trace = program(
    "trace",
    """def send(layer, W, delta):
    return layer.adjoint(W, delta)


def init_T(shape):
    return jnp.zeros(shape)


def init_n(shape):
    return 0.0


def next_T(layer, T, x, delta, keep=0.5):
    return keep * T + layer.outer(delta, x)


def next_n(n):
    return n + 1.0


def next_T_after_step(T, limit=1.0):
    return jnp.clip(T, -limit, limit)
""",
    (
        Function("send", "send", ("layer", "W", "delta")),
        Function("init", "init_T", ("shape",), phase=INIT, target="T"),
        Function("init", "init_n", ("shape",), phase=INIT, target="n"),
        Function("assign", "next_T", ("layer", "T", "x", "delta", "keep"), target="T"),
        Function("assign", "next_n", ("n",), target="n"),
        Function("assign", "next_T_after_step", ("T", "limit"), phase=AFTER_STEP, target="T"),
    ),
    (Tensor("T", "state", ("pre", "post"), "assign"), Tensor("n", "state", (), "assign")),
    {"keep": 0.5, "limit": 1.0},
)

fresh_signs = program(
    "fresh_signs",
    """def draw_M(shape, key):
    return jax.random.uniform(key, shape)


def send(layer, M, W, delta):
    return layer.adjoint(M * jnp.sign(W), delta)
""",
    (
        Function("draw", "draw_M", ("shape", "key"), phase=TASK, target="M"),
        Function("send", "send", ("layer", "M", "W", "delta")),
    ),
    (Tensor("M", "fresh", ("post", "pre"), feedback_only=True),),
)

gated = program(
    "gated",
    """def send(layer, W, delta, y, lr):
    return layer.adjoint(W, lr * delta * y)
""",
    (Function("send", "send", ("layer", "W", "delta", "y", "lr")),),
)

RULES = {rule.rule: rule for rule in (backprop, feedback_alignment, usf_sn, kolen_pollack, direct_feedback_alignment)}
