"""How PyTorch writes each operation of the language: one line per operation. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ruledsl.emit import forms
from ruledsl.emit.backend import Backend
from ruledsl.emit.expressions import PRODUCT, Writer
from ruledsl.emit.forms import Form
from ruledsl.emit.imports import imported
from ruledsl.ir.nodes import Node
from ruledsl_torch.attributes import ATTRIBUTES
from ruledsl_torch.views import shown


def _on_tensor(function: str) -> Form:
    """Functions that take no Python number: a number becomes a tensor of no dimensions."""

    def form(writer: Writer, node: Node) -> str:
        text = writer.write(node.args[0])
        if writer.is_number(node.args[0]):
            text = f"torch.tensor({text}, dtype=torch.float64)"
        return f"torch.{function}({text})"

    return form


def _bounded(function: str, side: str) -> Form:
    """min and max: by a number with `clamp`, of two tensors with `minimum` and `maximum`."""

    def form(writer: Writer, node: Node) -> str:
        texts = forms.arguments(writer, node)
        numbers = [writer.is_number(arg) for arg in node.args]
        if any(numbers):
            value, bound = (texts[1], texts[0]) if numbers[0] else (texts[0], texts[1])
            return f"torch.clamp({value}, {side}={bound})"
        return f"torch.{function}({', '.join(texts)})"

    return form


def _where(writer: Writer, node: Node) -> str:
    condition, then, otherwise = forms.arguments(writer, node)
    if writer.is_number(node.args[0]):
        condition = f"torch.tensor({condition})"
    if all(writer.is_number(arg) for arg in node.args[1:]):
        # Two numbers say nothing of the element type: it is that of what the condition is about.
        array = writer.first_array(node.args[0])
        made = f"{array}.new_tensor({{}})" if array else "torch.tensor({}, dtype=torch.float64)"
        then, otherwise = (made.format(forms.number(writer, arg)) for arg in node.args[1:])
    return f"torch.where({condition}, {then}, {otherwise})"


def _axis(writer: Writer, node: Node) -> str:
    return "0" if node.attrs[0] == "batch" else forms.units_axis(writer, node)


def _reduce(method: str, options: str = "") -> Form:
    also = f", {options}" if options else ""

    def form(writer: Writer, node: Node) -> str:
        value = writer.write(node.args[0], 9)
        if node.attrs[0] is None:
            return f"{value}.{method}({options})"
        if node.attrs[0] == "positions":
            return forms.flat(node, forms.over_positions(method, "torch.sqrt", "torch.square")(writer, node))
        if node.attrs[0] == "batch":
            text = f"joint_std({writer.use('layer')}, {writer.write(node.args[0])})"
            if method == "mean":
                power = writer.joint.get(id(node), 0)
                more = f", {power}" if power else ""
                text = f"joint({writer.use('layer')}, {value}.mean(0, keepdim=True){more})"
            return forms.flat(node, text)
        return forms.flat(node, f"{value}.{method}({_axis(writer, node)}, keepdim=True{also})")

    return form


def _joint(form: Form) -> Form:
    """What is reduced over the batch; of replicas that have to bring it together, for the joint batch."""

    def joined(writer: Writer, node: Node) -> str:
        assert callable(form)
        text = form(writer, node)
        if id(node) not in writer.joint:
            return text
        power = writer.joint[id(node)]
        return f"joint({writer.use('layer')}, {_bare(text)}{f', {power}' if power else ''})"

    return joined


def _bare(text: str) -> str:
    """Without the brackets around all of it."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and index < len(text) - 1:
            return text
    return text[1:-1]


def _l2_norm(writer: Writer, node: Node) -> str:
    value = writer.write(node.args[0])
    if node.attrs[0] == "batch":
        return forms.flat(node, f"joint_norm({writer.use('layer')}, {value})")
    if node.attrs[0] == "positions":
        return forms.flat(node, forms.over_positions("l2_norm", "torch.sqrt", "torch.square")(writer, node))
    return forms.flat(
        node, f"torch.linalg.vector_norm({value}, dim={_axis(writer, node)}, keepdim=True).clamp(min=1e-6)"
    )


def _count(writer: Writer, node: Node) -> str:
    value = writer.write(node.args[0], 9)
    if node.attrs[0] is None:
        return f"{value}.numel()"
    if node.attrs[0] == "positions":
        return f"{writer.use('layer')}.positions({writer.write(node.args[0])})"
    return f"{value}.shape[{_axis(writer, node)}]"


def _full_like(writer: Writer, node: Node) -> str:
    like, filling = node.args
    value = writer.write(like)
    if filling.constant in (0, 1):
        return f"torch.{'ones' if filling.constant else 'zeros'}_like({value})"
    if writer.is_number(filling):
        return f"torch.full_like({value}, {writer.write(filling)})"
    return f"(torch.ones_like({value}) * {writer.write(filling, PRODUCT + 1)})"


def _fill(writer: Writer, node: Node) -> str:
    return f"torch.full(shape, {forms.number(writer, node)})" if writer.is_number(node) else writer.write(node)


def _blank(writer: Writer) -> str:
    return f"torch.empty_like({writer.like})" if writer.like else "torch.empty(shape)"


def _orthogonal(writer: Writer, node: Node) -> str:
    return f"orthogonal_({_blank(writer)}, generator)"


def _random(function: str) -> Form:
    def form(writer: Writer, node: Node) -> str:
        numbers = ", ".join(forms.number(writer, arg) for arg in node.args)
        return f"{function}({_blank(writer)}, {numbers}, generator)"

    return form


def _add_scaled(writer: Writer, node: Node) -> str:
    summed, (c, weight) = node.args[0], node.args[1].args
    return f"torch.add({writer.write(summed)}, {writer.write(weight)}, alpha={writer.write(c)})"


RESERVED = frozenset(
    """
    torch nn F Linear Conv2d self ctx inputs output layer function downstream shapes per_family families zeros zero
    results rest prod tensordot once_differentiable params param_groups parameters foreach group initial_lr state states
    each value before
    """.split()  # noqa: SIM905
)

IMPORTS = {
    "math": "import math",
    "torch": "import torch",
    "warnings": "import warnings",
    **imported("partial", of="functools"),
    **imported("nn", of="torch"),
    **imported("once_differentiable", of="torch.autograd.function"),
    **imported("Schedule", of="ruledsl.ir.phases"),
    **imported("Constraint", "Driven", "Gradient", "Next", "RuleLayer", "Taught", of="ruledsl_torch.layers"),
    **imported("apply_of", "filled", "handed_on", of="ruledsl_torch.layers"),
    **imported("convolution", "dense", "only_linear", "tensordot", of="ruledsl_torch.linear"),
    **imported("optimizer", of="ruledsl_torch.optimization"),
    **imported(
        "joint", "joint_errors", "joint_norm", "joint_size", "joint_std", "own_errors", of="ruledsl_torch.replicas"
    ),
    **imported("Once", "StepLayer", of="ruledsl_torch.stepping"),
    **imported("PlainLayer", of="ruledsl_torch.plain"),
    **imported("OnceLayer", of="ruledsl_torch.once"),
    **imported("PhasedLayer", of="ruledsl_torch.phased"),
    **imported("named", "normal_", "orthogonal_", "signs_", "uniform_", of="ruledsl_torch.randomness"),
    **imported("RuleOptimizer", "number", "scalar", of="ruledsl_torch.rule_optimizer"),
}
"""Of what an emitted module uses, whence it comes."""

BACKEND = Backend(
    name="torch",
    packages=("torch",),
    executor="ruledsl_torch.executor",
    convert="ruledsl_torch.conversion:convert",
    engine="ruledsl_torch.engine:Engine",
    preferred=True,
    generator="generator=None",
    imports=IMPORTS,
    templates=Path(__file__).parent / "templates",
    shown=shown,
    reserved=RESERVED,
    attributes=ATTRIBUTES,
    completes=True,
    operations={
        "relu": forms.elementwise("torch.relu"),
        "sign": forms.elementwise("torch.sign"),
        "abs": forms.elementwise("torch.abs"),
        "exp": _on_tensor("exp"),
        "log": _on_tensor("log"),
        "tanh": _on_tensor("tanh"),
        "sqrt": _on_tensor("sqrt"),
        "min": _bounded("minimum", "max"),
        "max": _bounded("maximum", "min"),
        "and": forms.logic("&"),
        "or": forms.logic("|"),
        "not": forms.elementwise("torch.logical_not"),
        "where": _where,
        "phi": forms.activation,
        "dphi": forms.activation,
        "apply": forms.applied("tensordot({0}, {1}, dims={2})", "({0}.flatten(1) @ {1}.flatten(1).T)"),
        "outer": _joint(forms.outer("tensordot({0}, {1}, dims=([0], [0]))")),
        "dot": _joint(forms.dot),
        "sq": _joint(forms.dot),
        "add_scaled": _add_scaled,
        "norm": "torch.linalg.vector_norm({0})",
        "sum_all": _joint(lambda writer, node: f"{writer.write(node.args[0], 9)}.sum()"),
        "mean": _reduce("mean"),
        "std": _reduce("std", "correction=0"),
        "l2_norm": _l2_norm,
        "count": _count,
        "full_like": _full_like,
        "total": _joint(forms.total),
        "sum_k": forms.sum_over_layers,
        "fill": _fill,
    },
    random={
        "normal": _random("normal_"),
        "uniform": _random("uniform_"),
        "signs": _random("signs_"),
        "orthogonal": _orthogonal,
        "zeros": "torch.zeros(shape)",
        "ones": "torch.ones(shape)",
    },
)
