"""An explanation for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from ruledsl.explain.explanation import Explanation, Line, Phase
from ruledsl.explain.ledger import as_table, quantity
from ruledsl.explain.terminal import WIDTH, bold, table
from ruledsl.ir.printer import number


def page(explanation: Explanation) -> str:
    """All of it, section by section."""
    return "\n\n".join("\n".join(section) for section in _sections(explanation) if section)


def _sections(explanation: Explanation) -> Iterable[list[str]]:
    rule = explanation.rule
    head = bold(f"{rule.kind} {rule.name}") + (f": {rule.title}" if rule.title else "")
    yield [head, *textwrap.wrap(rule.source or "", WIDTH)]
    if explanation.settings:
        rows = []
        for s in explanation.settings:
            kind = "static param" if s.static else "param"
            rows.append((kind, s.name, f"= {number(s.value)}", f"in {s.interval}" if s.interval else "", s.doc or ""))
        yield [bold("Parameters"), table(rows)]
    if explanation.kept:
        kept = [(k.kind, k.name, f": {k.type}", k.relation, k.initial, k.doc or "") for k in explanation.kept]
        yield [bold("What a layer keeps, and how it begins"), table(kept)]
    for phase in explanation.phases:
        yield _phase(phase)
    if explanation.schedule:
        yield [bold("Schedule"), *_wrapped(explanation.schedule)]
    yield _ledger(explanation)
    yield _loop(explanation)
    if explanation.expenses:
        yield _cost(explanation)


def _phase(phase: Phase) -> list[str]:
    """What is minimised, then the equations with their signs under each other, then the names in them."""
    title = phase.name[0].upper() + phase.name[1:] if phase.name.startswith("after") else f"Phase {phase.name}"
    lines = [bold(title) + ("  each layer by itself, with an input of its own" if phase.driven else "")]
    for energy in phase.energies:
        by = "" if energy.optimizer == "task" else f" by {energy.optimizer}"
        lines += _wrapped(f"minimize {energy.value} over {', '.join(energy.targets)}{by}")
        lines += _equations(energy.where, 4)
    if phase.energies:
        lines.append("  and therefore")
    lines += _equations(phase.equations, 2)
    if phase.new_names:
        lines += ["  where", *_equations(phase.new_names, 4)]
    return lines


def _equations(equations: Sequence[Line], indent: int) -> list[str]:
    width = max((len(line.left) for line in equations), default=0)
    sign = max((len(line.relation) for line in equations), default=0)
    lines: list[str] = []
    for line in equations:
        head = f"{'':{indent}}{line.left:{width}} {line.relation:{sign}} "
        notes = ["summed over the batch and over positions"] if line.summed else []
        notes += [f"to the optimizer {line.receiver}"] if line.receiver not in (None, "task") else []
        value = line.value + (f"    ({', '.join(notes)})" if notes else "")
        shown = textwrap.wrap(value, WIDTH - len(head) - 2, break_long_words=False) or [""]
        lines += [head + shown[0], *(" " * (len(head) + 2) + rest for rest in shown[1:])]
    return lines


def _ledger(explanation: Explanation) -> list[str]:
    title = bold(f"Locality: {explanation.rule.verdict}")
    if not explanation.ledger:
        return [f"{title}; no synapse needs to know more than its own state and its two neurons"]
    return [title, as_table(explanation.ledger, explanation.rule.checked.text.name, explanation.bits)]


def _loop(explanation: Explanation) -> list[str]:
    """What becomes of it where the loss is scaled, and where a step takes several backward passes."""
    if not explanation.loop:
        return []
    unlike = [each for each in explanation.loop if not each.linear]
    title = "In a training loop: " + ("not all is linear in the errors" if unlike else "linear in the errors")
    lines = [bold(title)]
    if not unlike:
        lines[0] += "; micro-batches, replicas and a scaled loss change nothing"
    several = len({each.phase for each in explanation.loop}) > 1
    for each in unlike:
        failing = [*["does not scale with the loss"] * (not each.scales)]
        failing += ["does not add up over micro-batches"] * (not each.adds)
        where = f" in the phase {each.phase}" if several else ""
        lines += _wrapped(f"{each.target}{where} {', and '.join(failing)}")
    for each in explanation.loop:
        if each.once is not None:
            lines += _wrapped(f"of grad {each.target} this counts once a step: {each.once}")
    return lines


def _cost(explanation: Explanation) -> list[str]:
    rows = []
    added = "" if explanation.rule.kind == "rule" else "+"
    for expense in explanation.expenses:
        average = "a step on average" if len(explanation.expenses) > 1 else "a step"
        adds, moved = f"{added}{expense.relative_multiply_adds:.2f}", f"{added}{expense.relative_bytes:.2f}"
        cost = expense.cost
        name = average if expense.phase == "step" else expense.phase
        time = f"{added}{expense.relative_time:.2f}"
        rows.append((name, quantity(cost.multiply_adds), adds, quantity(cost.bytes), moved, time))
    titles = ("", "multiply-adds", "x backprop", "bytes", "x backprop", "time x backprop")
    network = f"{explanation.network}, {explanation.batch} examples"
    return [f"{bold('Cost')}  {network}", table(rows, titles, right=(1, 2, 3, 4, 5))]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
