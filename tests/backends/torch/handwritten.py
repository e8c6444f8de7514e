"""Programs as the compiler emits them, written by hand: what the runtime is tested with, apart from the compiler."""

from __future__ import annotations

from ruledsl.program import AFTER_STEP, INIT, TASK, Function, Program, Schedule, Tensor

# backprop reads W for sending alone, and the compiler says so; every layer learns it all the same.
W = Tensor("W", "forward", ("pre", "post"), "grad", feedback_only=True)
B_BIAS = Tensor("b", "forward", ("post",), "grad")
GRAD_W = Function("grad", "grad_W", ("layer", "x", "delta"), target="W")
GRAD_B = Function("grad", "grad_b", ("layer", "delta"), target="b")
DEFAULTS = '''"""A rule."""

import math

import torch


def grad_W(layer, x, delta):
    return layer.outer(delta, x)


def grad_b(layer, delta):
    return layer.sum_to_units(delta)


'''


def program(name, source, functions=(), tensors=(), parameters=None, **more):
    """A program; without functions of its own for them, W and b have the default pseudo-gradients."""
    targets = {(f.role, f.target) for f in functions if f.phase == TASK}
    defaults = [f for f in (GRAD_W, GRAD_B) if not targets & {("grad", f.target), ("assign", f.target)}]
    forward = [t for t in (W, B_BIAS) if t.name not in {own.name for own in tensors}]
    return Program(
        name, "torch", DEFAULTS + source, (*functions, *defaults), (*forward, *tensors), parameters or {}, **more
    )


def feedback(kind="fixed", learns=None):
    """A map post -> pre called B."""
    return Tensor("B", kind, ("post", "pre"), learns, feedback_only=True)


INIT_B = Function("init", "init_B", ("shape", "fan_out", "generator"), phase=INIT, target="B")
BACKWARD_SOURCE = "def send(layer, W, delta):\n    return layer.adjoint(W, delta)\n\n\n"
BACKWARD = Function("send", "send", ("layer", "W", "delta"))
NORMAL = (
    "def init_B(shape, fan_out, generator=None):\n"
    "    return torch.empty(shape).normal_(0.0, math.sqrt(1.0 / fan_out), generator=generator)\n\n\n"
)

backprop = program("backprop", BACKWARD_SOURCE, (BACKWARD,))

feedback_alignment = program(
    "feedback_alignment",
    NORMAL + "def send(layer, B, delta):\n    return layer.adjoint(B, delta)\n",
    (INIT_B, Function("send", "send", ("layer", "B", "delta"))),
    (feedback(),),
)

usf_sn = program(
    "usf_sn",
    """def send(layer, W, delta):
    sign_W = torch.sign(W)
    return layer.adjoint(torch.linalg.vector_norm(W) / torch.linalg.vector_norm(sign_W) * sign_W, delta)
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


def grad_W(W, outer_delta_x, decay=1e-4):
    return outer_delta_x + decay * W


def grad_B(B, outer_delta_x, decay=1e-4):
    return outer_delta_x + decay * B
""",
    (
        INIT_B,
        Function("term", "outer_delta_x", ("layer", "x", "delta")),
        Function("send", "send", ("layer", "B", "delta")),
        Function("grad", "grad_W", ("W", "outer_delta_x", "decay"), target="W"),
        Function("grad", "grad_B", ("B", "outer_delta_x", "decay"), target="B"),
    ),
    (feedback("weight", "grad"),),
    {"decay": 1e-4},
)

INIT_OUT = Function("init", "init_B", ("shape", "generator"), phase=INIT, target="B")
FROM_OUT = Tensor("B", "fixed", ("out", "pre"), feedback_only=True)
NORMAL_OUT = """def init_B(shape, generator=None):
    return torch.empty(shape).normal_(0.0, 0.1, generator=generator)


"""

direct_feedback_alignment = program(
    "direct_feedback_alignment",
    NORMAL_OUT + "def send(B, e):\n    return torch.tensordot(e, B, 1)\n",
    (INIT_OUT, Function("send", "send", ("B", "e"))),
    (FROM_OUT,),
)

drtp = program(
    "drtp",
    NORMAL_OUT + "def send(B, target, batch_size):\n    return -torch.tensordot(target, B, 1) / batch_size\n",
    (INIT_OUT, Function("send", "send", ("B", "target", "batch_size"))),
    (FROM_OUT,),
)

brsf = program(
    "brsf",
    """def draw_M(shape, generator=None):
    return torch.empty(shape).uniform_(0.0, 1.0, generator=generator)


def send(layer, W, M, delta):
    return layer.adjoint(M * torch.sign(W), delta)
""",
    (
        Function("draw", "draw_M", ("shape", "generator"), target="M"),
        Function("send", "send", ("layer", "W", "M", "delta")),
    ),
    (Tensor("M", "fresh", ("post", "pre"), feedback_only=True),),
)

running_mean = program(
    "running_mean",
    BACKWARD_SOURCE
    + """def next_m(layer, m, u, rate=0.1):
    return (1 - rate) * m + rate * layer.sum_to_units(layer.mean_positions(u)) / u.shape[0]


def next_count(count):
    return count + 1
""",
    (
        BACKWARD,
        Function("assign", "next_m", ("layer", "m", "u", "rate"), target="m"),
        Function("assign", "next_count", ("count",), target="count"),
    ),
    (Tensor("m", "state", ("post",), "assign"), Tensor("count", "state", (), "assign")),
    {"rate": 0.1},
)

constant_norm = program(
    "constant_norm",
    BACKWARD_SOURCE
    + """def init_size(W):
    return torch.linalg.vector_norm(W)


def after_W(W, size):
    return W * (size / torch.linalg.vector_norm(W))
""",
    (
        BACKWARD,
        Function("init", "init_size", ("W",), phase=INIT, target="size"),
        Function("assign", "after_W", ("W", "size"), phase=AFTER_STEP, target="W"),
    ),
    (Tensor("size", "fixed", ()),),
)

hebbian = program(
    "hebbian",
    """def send(delta):
    return 0.0


def next_W(layer, W, x, u, rate=0.01):
    return W + rate * layer.outer(u, x, mean="all")


def grad_b(b):
    return torch.zeros_like(b)
""",
    (
        Function("send", "send", ("delta",)),
        Function("assign", "next_W", ("layer", "W", "x", "u", "rate"), target="W"),
        Function("grad", "grad_b", ("b",), target="b"),
    ),
    (Tensor("W", "forward", ("pre", "post"), "assign"),),
    {"rate": 0.01},
)

clocked = program(
    "clocked",
    "def send(layer, W, delta, step):\n    return layer.adjoint(W, delta) / (1 + step)\n",
    (Function("send", "send", ("layer", "W", "delta", "step")),),
)

reads_phi = program(
    "reads_phi",
    "def send(layer, W, u, delta, phi, dphi):\n    return layer.adjoint(W, delta * phi(u) * dphi(u))\n",
    (Function("send", "send", ("layer", "W", "u", "delta", "phi", "dphi")),),
)

weight_mirror = program(
    "weight_mirror",
    NORMAL
    + """def send(layer, B, delta):
    return layer.adjoint(B, delta)


def drive_x(shape, generator=None):
    return torch.empty(shape).normal_(0.0, 1.0, generator=generator)


def z(u):
    return torch.relu(u)


def next_B(layer, B, x, z, eta=0.1, decay=0.5):
    return (1 - decay) * B + eta * layer.outer(z - z.mean(0, keepdim=True), x, mean="all")
""",
    (
        INIT_B,
        Function("send", "send", ("layer", "B", "delta")),
        Function("drive", "drive_x", ("shape", "generator"), phase="mirror", target="x"),
        Function("term", "z", ("u",), phase="mirror"),
        Function("assign", "next_B", ("layer", "B", "x", "z", "eta", "decay"), phase="mirror", target="B"),
    ),
    (feedback("weight", "assign"),),
    {"eta": 0.1, "decay": 0.5},
    schedule=Schedule(each=("task", "mirror")),
)

EVERY = {
    p.rule: p
    for p in (
        backprop,
        feedback_alignment,
        usf_sn,
        kolen_pollack,
        direct_feedback_alignment,
        drtp,
        brsf,
        running_mean,
        constant_norm,
        hebbian,
        clocked,
        weight_mirror,
    )
}
