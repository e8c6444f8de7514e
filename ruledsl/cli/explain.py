"""`ruledsl explain`: a rule as equations, with its ledger and what a step costs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

import ruledsl
from ruledsl.diagnostics import render
from ruledsl.errors import UserError

if TYPE_CHECKING:
    from ruledsl.architectures import Architecture

# The images that a network is meant for, by what its name says; others are given with --input.
INPUTS = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "mlp": (1, 28, 28), "timit": (1845,), "other": (3, 119, 119)}
INPUTS |= dict.fromkeys(("imagenet", "resnet18", "resnet50"), (3, 224, 224))
SMALL_IMAGES = (3, 32, 32)


def command(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="A rule of the library, or a path.")],
    model: Annotated[str | None, typer.Option("--model", help="A network, for bits and cost: mlp, liao_mnist.")] = None,
    shape: Annotated[str | None, typer.Option("--input", metavar="CxHxW", help="Its input, as in 3x32x32.")] = None,
    classes: Annotated[int, typer.Option("--classes", min=1, help="Its classes.")] = 10,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Examples in one step.")] = 32,
    as_latex: Annotated[bool, typer.Option("--latex", help="As a LaTeX document.")] = False,
    as_object: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Show the equations of a rule as they are computed, what moves between synapses, and what a step costs."""
    if as_latex and as_object:
        raise UserError("--latex and --json are two ways to show the same", "choose one of them")
    if shape is not None and model is None:
        raise UserError("--input is the input of a network, and there is no --model")
    from ruledsl.explain.explanation import explain

    loaded = ruledsl.load(rule)
    for warning in loaded.diagnostics:
        print(render(warning) + "\n", file=sys.stderr)
    explanation = explain(loaded, _architecture(model, shape, classes) if model else None, batch)
    if as_object:
        print(json.dumps(explanation.as_json(), indent=2))
    elif as_latex:
        from ruledsl.explain.document import document

        print(document(explanation), end="")
    else:
        from ruledsl.explain.page import page

        print(page(explanation))


def _architecture(model: str, shape: str | None, classes: int) -> Architecture:
    from ruledsl.architectures import get

    return get(model, _shape(shape) if shape else _usual_input(model), classes)


def _usual_input(model: str) -> tuple[int, ...]:
    words = model.split("_")
    found = [shape for word, shape in INPUTS.items() if word in words]
    return found[0] if found and "cifar" not in words else SMALL_IMAGES


def _shape(written: str) -> tuple[int, ...]:
    parts = written.lower().split("x")
    if len(parts) not in (1, 3) or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise UserError(
            f"`{written}` is no input", "write channels x height x width, as in 3x32x32, or one number of units"
        )
    return tuple(int(part) for part in parts)
