"""`ruledsl models`: the networks that can be trained."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ruledsl import architectures
from ruledsl.architectures import Architecture
from ruledsl.explain.terminal import bold, table


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show the layers of this one.")] = None,
    as_lines: Annotated[bool, typer.Option("--json", help="One JSON object per network, or per layer.")] = False,
) -> None:
    """List the networks with their parameters and multiply-adds, each for the input that it is usually trained on."""
    rows = [_row(each) for each in architectures.TABLE] if name is None else _layers(architectures.usual(name))
    if as_lines:
        for row in rows:
            print(json.dumps(row))
        return
    if name is not None:
        shown = architectures.usual(name)
        print(bold(f"{name}: {shown.parameter_count():,} parameters, {_products(shown):,} multiply-adds"))
    titles = list(rows[0])
    numbers = [index for index, title in enumerate(titles) if title in ("classes", "parameters", "multiply_adds")]
    print(table([[_shown(row[title]) for title in titles] for row in rows], [_title(each) for each in titles], numbers))


def _row(name: str) -> dict[str, Any]:
    network = architectures.usual(name)
    return {
        "network": name,
        "input": list(network.input_shape),
        "classes": network.classes,
        "parameters": network.parameter_count(),
        "multiply_adds": _products(network),
        "source": architectures.TABLE[name].source,
    }


def _layers(network: Architecture) -> list[dict[str, Any]]:
    return [
        {
            "layer": place.path,
            "kind": type(place.layer).__name__,
            "input": list(place.input_shape),
            "output": list(place.output_shape),
            "parameters": place.parameters,
            "multiply_adds": place.multiply_adds,
        }
        for place in network.places()
    ]


def _products(network: Architecture) -> int:
    return sum(place.multiply_adds for place in network.places())


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " x ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _title(field: str) -> str:
    return field.replace("_", "-")
