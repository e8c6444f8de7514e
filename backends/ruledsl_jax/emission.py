"""How JAX writes each operation of the language: one line per operation. Imports no JAX."""

from __future__ import annotations

from pathlib import Path

from ruledsl.emit import forms
from ruledsl.emit.backend import Backend
from ruledsl.emit.expressions import PRODUCT, Writer
from ruledsl.emit.forms import Form
from ruledsl.emit.imports import imported
from ruledsl.ir.nodes import Node
from ruledsl_jax.views import shown


def _axis(node: Node) -> str:
    return "0" if node.attrs[0] == "batch" else "-1"


def _reduce(function: str, bound: str = "") -> Form:
    def form(writer: Writer, node: Node) -> str:
        value = writer.write(node.args[0])
        if node.attrs[0] is None:
            return f"{function}({value})"
        if node.attrs[0] == "positions":
            return forms.flat(node, forms.over_positions(node.op, "jnp.sqrt", "jnp.square")(writer, node))
        return forms.flat(node, f"{function}({value}, axis={_axis(node)}, keepdims=True){bound}")

    return form


def _count(writer: Writer, node: Node) -> str:
    value = writer.write(node.args[0], 9)
    if node.attrs[0] is None:
        return f"{value}.size"
    if node.attrs[0] == "positions":
        return f"{writer.use('layer')}.positions({writer.write(node.args[0])})"
    return f"{value}.shape[{_axis(node)}]"


def _full_like(writer: Writer, node: Node) -> str:
    like, filling = node.args
    if filling.constant in (0, 1):
        return f"jnp.{'ones' if filling.constant else 'zeros'}_like({writer.write(like)})"
    return f"(jnp.ones_like({writer.write(like)}) * {writer.write(filling, PRODUCT + 1)})"


def _fill(writer: Writer, node: Node) -> str:
    return f"jnp.full(shape, {forms.number(writer, node)})" if writer.is_number(node) else writer.write(node)


def _shape(writer: Writer) -> str:
    return f"{writer.like}.shape, {writer.like}.dtype" if writer.like else "shape"


def _normal(writer: Writer, node: Node) -> str:
    mean, std = node.args
    drawn = f"normal(key, {_shape(writer)})"
    if std.constant != 1:
        drawn = f"{writer.write(std, PRODUCT + 1)} * {drawn}"
    return drawn if mean.constant == 0 else f"{writer.write(mean)} + {drawn}"


def _uniform(writer: Writer, node: Node) -> str:
    low, high = (forms.number(writer, arg) for arg in node.args)
    return f"uniform(key, {low}, {high}, {_shape(writer)})"


def _signs(writer: Writer, node: Node) -> str:
    shape = f"{writer.like}.shape" if writer.like else "shape"
    return f"signs(key, {writer.write(node.args[0])}, {shape})"


def _orthogonal(writer: Writer, node: Node) -> str:
    return f"orthogonal(key, {_shape(writer)})"


RESERVED = frozenset(
    """
    jax jnp partial Sequence Any NamedTuple Array ArrayLike Params State Beside params state beside changes init apply
    advance after_step affine residuals errors arriving sent zero zeros own handed_on downstream sends bias k at_k map_k
    perturbations layers dtype y optax learning_rate updates update start change
    """.split()  # noqa: SIM905
)
"""What an emitted module calls something itself."""
ATTRIBUTES = frozenset(("count", "index"))

_ON_ARRAYS = ("sign", "abs", "exp", "log", "tanh", "sqrt", "where")

IMPORTS = {
    "math": "import math",
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "optax": "import optax",
    **imported("Sequence", of="collections.abc"),
    **imported("partial", of="functools"),
    **imported("Any", "NamedTuple", of="typing"),
    **imported("Array", of="jax"),
    **imported("ArrayLike", of="jax.typing"),
    **imported("Activation", "connected", "filled", "slope", of="ruledsl_jax.layers"),
    **imported("Linear", "forward_weights", of="ruledsl_jax.linear"),
    **imported("vary_alike", of="ruledsl_jax.mesh"),
    **imported(
        "Key", "key_of", "keys_like", "named", "normal", "orthogonal", "signs", "uniform", of="ruledsl_jax.randomness"
    ),
}
"""Of what an emitted module uses, whence it comes."""

BACKEND = Backend(
    name="jax",
    packages=("jax", "flax", "optax"),
    executor="ruledsl_jax.executor",
    convert="ruledsl_jax.conversion:convert",
    engine="ruledsl_jax.engine:Engine",
    shown=shown,
    generator="key",
    traced=True,
    imports=IMPORTS,
    templates=Path(__file__).parent / "templates",
    reserved=RESERVED,
    attributes=ATTRIBUTES,
    operations={
        **{name: forms.elementwise(f"jnp.{name}") for name in _ON_ARRAYS},
        "relu": forms.elementwise("jax.nn.relu"),
        "min": forms.elementwise("jnp.minimum"),
        "max": forms.elementwise("jnp.maximum"),
        "and": forms.logic("&"),
        "or": forms.logic("|"),
        "not": forms.elementwise("jnp.logical_not"),
        "phi": forms.activation,
        "dphi": forms.activation,
        "apply": forms.applied(
            "jnp.tensordot({0}, {1}, axes={2})",
            "({0}.reshape(len({0}), -1) @ {1}.reshape(len({1}), -1).T)",
        ),
        "outer": forms.outer("jnp.tensordot({0}, {1}, axes=([0], [0]))"),
        "dot": forms.dot,
        "sq": forms.dot,
        "norm": "jnp.sqrt(jnp.sum(jnp.square({0})))",
        "sum_all": "jnp.sum({0})",
        "mean": _reduce("jnp.mean"),
        "std": _reduce("jnp.std"),
        "l2_norm": _reduce("jnp.linalg.norm", ".clip(1e-6)"),
        "count": _count,
        "full_like": _full_like,
        "total": forms.total,
        "sum_k": forms.sum_over_layers,
        "fill": _fill,
    },
    random={
        "normal": _normal,
        "uniform": _uniform,
        "signs": _signs,
        "orthogonal": _orthogonal,
        "zeros": "jnp.zeros(shape)",
        "ones": "jnp.ones(shape)",
    },
)
