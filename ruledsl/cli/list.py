"""`ruledsl list`: the library, with verdicts."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated

import typer

from ruledsl import library
from ruledsl.explain.ledger import as_json, in_short, short
from ruledsl.explain.terminal import WIDTH, bold, count, dim, table, visible
from ruledsl.rule import Rule

KINDS = ("rule", "optimizer", "constraint")


def command(
    as_lines: Annotated[bool, typer.Option("--json", help="One JSON object per definition.")] = False,
    presets: Annotated[bool, typer.Option("--presets", help="What `train --preset` takes.")] = False,
    paper: Annotated[
        str | None, typer.Option("--table", help="What makes each row of a paper's table: moskovitz1, liao2 ...")
    ] = None,
) -> None:
    """Show the rules, optimizers and constraints of the library, with what each would need to know."""
    if presets:
        _presets(as_lines)
        return
    if paper is not None:
        _paper_table(paper, as_lines)
        return
    found = [library.load(name) for name in library.names()]
    if as_lines:
        for rule in found:
            print(json.dumps(_object(rule)))
        return
    width = max(len(rule.name) for rule in found) + 4
    for kind in KINDS:
        rules = [rule for rule in found if rule.kind == kind]
        if rules:
            print(bold(f"{kind}s"))
        for rule in rules:
            print(_lines(rule, width), end="\n\n" if rule is rules[-1] else "\n")
    local = sum(rule.verdict == "local" for rule in found)
    print(f"{count(len(found), 'definition')}, {local} of them local. More about one: ruledsl explain NAME")


def _presets(as_lines: bool) -> None:
    from ruledsl.training.presets import names, title

    if as_lines:
        for name in names():
            print(json.dumps({"name": name, "title": title(name)}))
        return
    print(table([(name, title(name)) for name in names()], ("preset", "what it is")))


def _paper_table(name: str, as_lines: bool) -> None:
    from dataclasses import asdict

    from ruledsl.experiments.papers import table as paper_table

    found = paper_table(name)
    if as_lines:
        for row in found.rows:
            print(json.dumps(asdict(row)))
        return
    header = ("row", "rule", "optimizer", "constraints", "network")
    cells = []
    for row in found.rows:
        settings = ", ".join(f"{name} = {value:g}" for name, value in row.parameters.items())
        rule = f"{row.rule} ({settings})" if settings else row.rule
        options = [f"{name} = {value}" for name, value in row.options.items()]
        network = ", ".join((row.network, *options, *([f"{row.frozen} frozen"] if row.frozen else [])))
        cells.append((row.label, rule, row.optimizer, " ".join(row.constraints), network))
    print(bold(found.title))
    print(table(cells, header))


def _lines(rule: Rule, width: int) -> str:
    """Name, verdict and what moves between synapses; below that, what it is and where it comes from."""
    moves = short(in_short(rule.ledger), WIDTH - width - 10)
    first = f"{bold(f'  {rule.name:{width - 2}}')}{rule.verdict:10}{moves}".rstrip()
    what = "; ".join(visible(part) for part in (rule.title, rule.source) if part)
    below = textwrap.wrap(what, WIDTH, initial_indent=" " * width, subsequent_indent=" " * (width + 2))
    return "\n".join([first, *map(dim, below)])


def _object(rule: Rule) -> dict[str, object]:
    return {
        "name": rule.name,
        "kind": rule.kind,
        "verdict": rule.verdict,
        "ledger": [as_json(entry) for entry in rule.ledger],
        "title": rule.title,
        "source": rule.source,
    }
