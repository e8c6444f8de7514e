"""Grammar -> parse table: Lark does the LALR(1) analysis once, and its result ships with the package.

The analysis takes longer than reading all rules of the library, so it doesn't happen at run time. The table is
written with states in a canonical order: the same grammar gives the same bytes.

    python -m ruledsl.language.make_table
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lark import Lark
from lark.common import ParserConf
from lark.grammar import Rule
from lark.parsers.lalr_analysis import LALR_Analyzer, Shift

GRAMMAR = Path(__file__).with_name("grammar.lark")
TABLE = Path(__file__).with_name("table.json")


def table() -> str:
    """The table of `grammar.lark` as JSON; raises lark.exceptions.GrammarError on any conflict.

    `spellings`: terminal -> how it is written; `rules`: [symbol, length, builder or null]; `lookaheads`: sets of
    terminals; `states`: [symbol -> next state, [rule, lookahead set]...]; state 0 is the first, `end` the last.
    """
    grammar = GRAMMAR.read_text(encoding="utf-8")
    lark = Lark(grammar, parser="lalr", lexer="basic", keep_all_tokens=True, maybe_placeholders=False)
    analysis = LALR_Analyzer(ParserConf(lark.rules, {}, ["start"]), strict=True)
    analysis.compute_lalr()  # type: ignore[no-untyped-call]
    parse_table = analysis.parse_table
    states = _in_order(parse_table.states, parse_table.start_states["start"])
    numbers = {state: number for number, state in enumerate(states)}
    rules = sorted({_rule(rule) for rule in lark.rules}, key=str)
    lookaheads = sorted({" ".join(group) for state in states for _, group in _reductions(parse_table.states[state])})
    rows = [
        [
            {symbol: numbers[target] for symbol, target in sorted(_shifts(parse_table.states[state]))},
            *(
                [rules.index(rule), lookaheads.index(" ".join(group))]
                for rule, group in _reductions(parse_table.states[state])
            ),
        ]
        for state in states
    ]
    fields = {
        "grammar": hashlib.sha256(grammar.encode()).hexdigest(),
        "spellings": {
            terminal.name: terminal.pattern.value for terminal in sorted(lark.terminals, key=lambda t: t.name)
        },
        "end": numbers[parse_table.end_states["start"]],
    }
    lists: dict[str, Iterable[object]] = {"rules": rules, "lookaheads": lookaheads, "states": rows}
    head = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]
    tail = [f"{json.dumps(name)}: [\n{_one_per_line(values)}\n]" for name, values in lists.items()]
    return "{\n" + ",\n".join(head + tail) + "\n}\n"


def _in_order(states: dict[Any, dict[str, Any]], start: Any) -> list[Any]:
    """The states, breadth first from the start and by symbol."""
    order = {start: None}
    for state in (queue := [start]):
        for _, target in sorted(_shifts(states[state])):
            if target not in order:
                order[target] = None
                queue.append(target)
    return list(order)


def _shifts(row: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    return ((symbol, argument) for symbol, (action, argument) in row.items() if action is Shift)


def _reductions(row: dict[str, Any]) -> list[tuple[tuple[str, int, str | None], list[str]]]:
    """Each rule that this state reduces by, with the terminals on which it does."""
    found: dict[tuple[str, int, str | None], list[str]] = {}
    for symbol, (action, argument) in sorted(row.items(), key=lambda entry: entry[0]):
        if action is not Shift:
            found.setdefault(_rule(argument), []).append(symbol)
    return sorted(found.items(), key=str)


def _rule(rule: Rule) -> tuple[str, int, str | None]:
    """Symbol, length, and the builder's name; null where the only child, or a list of them, is handed on."""
    name = str(rule.origin.name)
    passes_on = name.startswith("_") or (rule.options.expand1 and len(rule.expansion) == 1 and not rule.alias)
    return name, len(rule.expansion), None if passes_on else rule.alias or name


def _one_per_line(values: Iterable[object]) -> str:
    return ",\n".join(json.dumps(value, separators=(",", ":")) for value in values)


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
