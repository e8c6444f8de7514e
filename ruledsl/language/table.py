"""The parse table that ships with the package: made from grammar.lark by make_table.py, read once, here."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple


class Rule(NamedTuple):
    """A production: its symbol, how many values it takes, and what builds one of them (None: handed on as it is)."""

    symbol: str
    length: int
    builder: str | None


class Table(NamedTuple):
    """`states[state][symbol]` is the next state, or ~n for "reduce by rules[n]"; parsing starts in state 0."""

    grammar: str
    spellings: dict[str, str]
    rules: list[Rule]
    states: list[dict[str, int]]
    end: int
    blocks: frozenset[int]  # the states in which a statement, clause, entry or definition may start
    starts: frozenset[str]  # the reserved words and signs that start one, or end a block

    def accepts(self, stack: list[int], terminal: str) -> bool:
        """Whether `terminal` may follow what led to these states."""
        base, top = len(stack), [stack[-1]]  # stack[:base] + top[1:] is the stack after some reductions
        while (action := self.states[top[-1]].get(terminal)) is not None and action < 0:
            rule = self.rules[~action]
            inside = min(rule.length, len(top) - 1)
            del top[len(top) - inside :]
            if rule.length > inside:
                base -= rule.length - inside
                top = [stack[base - 1]]
            top.append(self.states[top[-1]][rule.symbol])
            if top[-1] == self.end:
                return True
        return action is not None

    def expected(self, stack: list[int]) -> set[str]:
        """Every terminal that may follow."""
        return {symbol for symbol in self.states[stack[-1]] if symbol.isupper() and self.accepts(stack, symbol)}


@lru_cache
def table() -> Table:
    """The table of the language."""
    content = json.loads(Path(__file__).with_name("table.json").read_text(encoding="utf-8"))
    lookaheads = [group.split() for group in content["lookaheads"]]
    states: list[dict[str, int]] = []
    for shifts, *reductions in content["states"]:
        for rule, group in reductions:
            shifts.update(dict.fromkeys(lookaheads[group], ~rule))
        states.append(shifts)
    rules = [Rule(*rule) for rule in content["rules"]]
    starts = ("RULE", "LET", "FIRST", "ALLOW")
    blocks = frozenset(n for n, row in enumerate(states) if any(row.get(start, -1) >= 0 for start in starts))
    shifted = {symbol for n in blocks for symbol, action in states[n].items() if action >= 0 and symbol.isupper()}
    return Table(
        content["grammar"], content["spellings"], rules, states, content["end"], blocks, frozenset(shifted - {"NAME"})
    )
