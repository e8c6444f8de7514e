"""`ruledsl data`: the datasets, what each needs, and whether it is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ruledsl import data
from ruledsl.explain.terminal import table
from ruledsl.options import described


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Read this one, and say what is in it.")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Where to look, before $RULEDSL_DATA.")] = None,
    as_lines: Annotated[bool, typer.Option("--json", help="One JSON object per dataset.")] = False,
) -> None:
    """List the datasets that networks can be trained on: what each is, and where it is if it is there."""
    rows = [_row(each, data_dir) for each in data.TABLE] if name is None else [_contents(name, data_dir)]
    if as_lines:
        for row in rows:
            print(json.dumps(row))
    elif name is None:
        print(
            table([[row["dataset"], row["there"] or "no", row["needs"]] for row in rows], ("dataset", "there", "needs"))
        )
    else:
        print(table([(field, str(value)) for field, value in rows[0].items()]))


def _row(name: str, data_dir: Path | None) -> dict[str, Any]:
    needs = data.NEEDS.get(name)
    found = needs.found(name, data_dir) if needs else None
    return {
        "dataset": name,
        "what": described(data.TABLE[name]),
        "needs": needs.words if needs else "nothing",
        "there": "yes" if needs is None else found and str(found),
    }


def _contents(name: str, data_dir: Path | None) -> dict[str, Any]:
    found = data.load(name, data_dir)
    batch = next(iter(found.train.in_order(1000)))
    return {
        "dataset": found.name,
        "what": described(data.TABLE[name]),
        "image": " x ".join(map(str, found.shape)),
        "classes": found.classes,
        "train": len(found.train),
        "test": len(found.test),
        "mean": round(float(batch.images.mean()), 4),
        "std": round(float(batch.images.std()), 4),
        "network": found.model,
    }
