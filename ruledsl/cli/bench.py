"""`ruledsl bench`: what a rule costs on a network, beside native backpropagation."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ruledsl.cli.run_options import Backend, ConfigFile, Settings, configuration
from ruledsl.errors import UserError
from ruledsl.explain.terminal import table

if TYPE_CHECKING:
    from ruledsl.experiments.bench import Cost


def command(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="A rule of the library, or a path.")],
    model: Annotated[str, typer.Option("--model", help="The network: see ruledsl models.")],
    input_shape: Annotated[
        str | None, typer.Option("--input", help="Of an image, such as 3x224x224; left out, what is usual.")
    ] = None,
    backend: Backend = None,
    config: ConfigFile = None,
    settings: Settings = None,
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="How many times both take a turn.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure images per second and peak memory of a rule against the framework's own backpropagation, in one run.

    Settings are those of train, such as --set data.batch_size=64, --set device=cuda or --set precision=bfloat16.
    """
    from ruledsl.experiments.bench import bench

    flags: dict[str, Any] = {"rule": rule, "backend": backend}
    chosen = configuration(config, settings, model=model, data=None, data_dir=None, **flags)
    costs = bench(chosen, _shape(input_shape), rounds)
    if as_json:
        print(json.dumps({"model": model, "batch_size": chosen.data.batch_size, "costs": list(map(asdict, costs))}))
        return
    titles = ("", "images/s", "ms per step", "to native", "quartiles", "peak memory", "tensors")
    print(table([_row(cost) for cost in costs], titles, range(1, 7)))


def _row(cost: Cost) -> list[str]:
    quartiles = "" if cost.ratio == 1 else f"{cost.quartiles[0]:.3f} to {cost.quartiles[1]:.3f}"
    return [
        cost.name,
        f"{cost.images_per_second:,.0f}",
        f"{1000 * cost.seconds:.3g}",
        f"{cost.ratio:.3f}",
        quartiles,
        "" if cost.memory is None else _mebibytes(cost.memory),
        _mebibytes(cost.tensors),
    ]


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    numbers = text.split("x")
    if not all(number.isdigit() and int(number) for number in numbers):
        raise UserError(f"cannot read the shape `{text}`", "write it as --input 3x224x224")
    return tuple(map(int, numbers))
