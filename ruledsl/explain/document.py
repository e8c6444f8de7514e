"""An explanation as a LaTeX document that compiles as it stands, with nothing but amsmath."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ruledsl.explain.explanation import Explanation, Line, Phase
from ruledsl.explain.latex import LEGEND, name, text
from ruledsl.explain.ledger import LONGEST_SOURCE, quantity, short
from ruledsl.ir.printer import number

LONGEST = 70  # characters as they appear, roughly, in one line of an equation

_HEAD = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage{amsmath}
\setlength{\textwidth}{16cm}
\setlength{\oddsidemargin}{0cm}
\setlength{\parindent}{0pt}
\allowdisplaybreaks
\begin{document}
"""


def document(explanation: Explanation) -> str:
    """The whole document."""
    return _HEAD + "\n\n".join(part for part in _parts(explanation) if part) + "\n\n\\end{document}\n"


def _parts(explanation: Explanation) -> Iterable[str]:
    rule = explanation.rule
    yield rf"\section*{{{text(rule.title or rule.name)}}}"
    yield rf"\texttt{{{text(rule.name)}}}" + (rf". {text(rule.source)}." if rule.source else ".")
    yield from _parameters(explanation)
    for phase in explanation.phases:
        title = f"Phase {phase.name}" if not phase.name.startswith("after") else phase.name.capitalize()
        driven = "Each layer by itself, with an input of its own.\n" if phase.driven else ""
        yield rf"\subsection*{{{text(title)}}}" + f"\n{driven}" + "\n".join([*_energies(phase), ""]) + _equations(phase)
    yield LEGEND
    if explanation.schedule:
        yield rf"Schedule: {text(explanation.schedule)}."
    yield from _ledger(explanation)
    yield from _cost(explanation)


def _parameters(explanation: Explanation) -> Iterable[str]:
    rows = []
    for s in explanation.settings:
        shown = rf"\text{{{number(s.value)}}}" if isinstance(s.value, bool) else _number(s.value)
        lies = rf" \in {_interval(s.interval)}" if s.interval else ""
        rows.append((f"${name(s.name)} = {shown}{lies}$", text(s.doc or "")))
    for k in explanation.kept:
        relation = r"\sim" if k.relation == "~" else "="
        arrow = _spaces(k.type)
        rows.append(
            (f"${name(k.name)} {relation} {k.latex}$", f"{k.kind}, {arrow}{'; ' if k.doc else ''}{text(k.doc or '')}")
        )
    if rows:
        yield r"\subsection*{Parameters, and what a layer keeps}" + "\n" + _tabular("lp{8cm}", rows)


def _energies(phase: Phase) -> Iterable[str]:
    for energy in phase.energies:
        by = "" if energy.optimizer == "task" else rf" \quad\text{{by {text(energy.optimizer)}}}"
        over = ", ".join(name(target) for target in energy.targets)
        lines = _broken(energy.latex)
        lines[-1] += by
        rows = [rf"\min_{{{over}}}\quad & {lines[0]}", *(rf"& \quad {rest}" for rest in lines[1:])]
        yield _align(rows) + ("\nwhere\n" + _align([_row(line) for line in energy.where]) if energy.where else "")
        yield "and therefore\n"


def _equations(phase: Phase) -> str:
    rows = [_row(line) for line in phase.equations]
    where = [_row(line) for line in phase.new_names]
    return _align(rows) + ("\nwhere\n" + _align(where) if where else "")


def _align(rows: Sequence[str]) -> str:
    return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"


def _row(line: Line) -> str:
    relation = {"<-": r"\leftarrow", "~": r"\sim"}.get(line.relation, "=")
    first, *others = _broken(line.latex)
    if line.receiver not in (None, "task"):
        note = rf"\text{{(to the optimizer {text(line.receiver or '')})}}"
        if others or _length(first) > LONGEST // 2:
            others.append(note)
        else:
            first += rf" \qquad {note}"
    return rf"{line.left_latex} &{relation} {first}" + "".join(f" \\\\\n  &\\quad {other}" for other in others)


def _broken(formula: str) -> list[str]:
    """A long formula in several lines, broken before a `+` or `-` that stands outside of everything."""
    if _length(formula) <= LONGEST:
        return [formula]
    lines, depth, start = [], 0, 0
    for match in re.finditer(r"\\left|\\right|\\begin|\\end|[{}]| (?=[+-] )", formula):
        word = match.group()
        depth += {"\\left": 1, "\\begin": 1, "{": 1, "\\right": -1, "\\end": -1, "}": -1}.get(word, 0)
        if (
            word == " "
            and depth == 0
            and _length(formula[start:]) > LONGEST
            and _length(formula[start : match.start()]) > 30
        ):
            lines.append(formula[start : match.start()])
            start = match.end()
    return [*lines, formula[start:]]


def _length(formula: str) -> int:
    plain = re.sub(r"\\(operatorname|mathit|mathrm|text|left|right|frac|begin|end|quad)\b", "", formula)
    return len(re.sub(r"\\[a-zA-Z]+|\\,", "x", re.sub(r"[{}^_ &]", "", plain)))


def _ledger(explanation: Explanation) -> Iterable[str]:
    yield rf"\subsection*{{Locality: {explanation.rule.verdict}}}"
    if not explanation.ledger:
        yield "No synapse needs to know more than its own state and its two neurons."
        return
    titles = ["source", "channel", "sink", "phase", "line", *(["bits/update"] if explanation.bits else [])]
    rows: list[Sequence[str]] = [[*titles, "term"], []]
    for i, e in enumerate(explanation.ledger):
        bits = [quantity(explanation.bits[i])] if explanation.bits else []
        cells = [short(e.source, LONGEST_SOURCE), e.channel, e.sink, e.phase, str(e.line), *bits, e.term]
        rows.append([text(cell) for cell in cells])
    columns = "llllr" + ("r" if explanation.bits else "") + "p{3.5cm}"
    yield _tabular(columns, rows)


def _cost(explanation: Explanation) -> Iterable[str]:
    if not explanation.expenses:
        return
    yield rf"\subsection*{{Cost on {text(explanation.network or '')} with {explanation.batch} examples}}"
    rows: list[Sequence[str]] = [["", "multiply-adds", "of backprop", "bytes", "of backprop", "time of backprop"], []]
    for e in explanation.expenses:
        adds, moved = quantity(e.cost.multiply_adds), quantity(e.cost.bytes)
        shares = [f"{share:.2f}" for share in (e.relative_multiply_adds, e.relative_bytes, e.relative_time)]
        rows.append([text(e.phase), adds, shares[0], moved, *shares[1:]])
    yield _tabular("lrrrrr", rows)


def _tabular(columns: str, rows: Sequence[Sequence[str]]) -> str:
    """An empty row is a rule."""
    lines = [" & ".join(row) + r" \\" if row else r"\hline" for row in rows]
    return f"\\begin{{tabular}}{{{columns}}}\n" + "\n".join(lines) + "\n\\end{tabular}"


def _number(value: float) -> str:
    mantissa, exponent, power = number(value).replace("inf", r"\infty").partition("e")
    return rf"{mantissa} \cdot 10^{{{int(power)}}}" if exponent else mantissa


def _interval(interval: str) -> str:
    return interval.replace("inf", r"\infty")


def _spaces(type: str) -> str:
    return " ".join(r"$\to$" if word == "->" else text(word) for word in type.split())
