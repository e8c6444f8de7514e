"""The LALR(1) automaton of the grammar: takes terminals, builds the tree from the leaves up."""

from __future__ import annotations

from typing import Any

from ruledsl.language.builder import DEEPEST, build, too_deep
from ruledsl.language.lexer import Token
from ruledsl.language.table import table
from ruledsl.language.tree import Definition

MOST_STATES = 20 * DEEPEST  # no text within the limits on depth needs as many


class Automaton:
    """`states` is the stack of the automaton; `definitions` are those that were read to their end."""

    def __init__(self) -> None:
        self.table = table()
        self.states = [0]
        self.definitions: list[Definition] = []
        self._values: list[Any] = []

    def advance(self, terminal: str, token: Token) -> bool:
        """Take one terminal, after all reductions that it calls for; False if it can't stand here.

        Raises Refused where what was read before it is against the rules.
        """
        rows, rules, states = self.table.states, self.table.rules, self.states
        while (action := rows[states[-1]].get(terminal)) is not None:
            if action >= 0:
                if len(states) > MOST_STATES:
                    raise too_deep(token.span)
                states.append(action)
                self._values.append(token)
                return True
            symbol, length, builder = rules[~action]
            if length == 1 and builder is None and symbol[0] != "_":  # `sum: product`: three reductions of four
                states[-1] = rows[states[-2]][symbol]
                continue
            self._reduce(~action)
            if states[-1] == self.table.end:
                return True
        return False

    def _reduce(self, rule: int) -> None:
        symbol, length, builder = self.table.rules[rule]
        states, values = self.states, self._values
        taken = values[len(values) - length :]
        del states[len(states) - length :], values[len(values) - length :]
        values.append(self._reduced(symbol, builder, taken))
        states.append(self.table.states[states[-1]][symbol])

    def _reduced(self, symbol: str, builder: str | None, taken: list[Any]) -> Any:
        """The value of a production; a repetition is a list, which becomes part of what it stands in."""
        if builder is None:
            if not symbol.startswith("_"):
                return taken[0]
            if not isinstance(taken[0], list):
                return taken
            taken[0].extend(taken[1:])
            return taken[0]
        if symbol == "start":
            return None
        if any(isinstance(value, list) for value in taken):
            taken = [part for value in taken for part in (value if isinstance(value, list) else (value,))]
        value = build(builder, taken)
        if isinstance(value, Definition):
            self.definitions.append(value)
        return value

    def at_start(self) -> bool:
        """Whether the terminal taken last is the first of a statement, clause, entry or definition, or ends a block."""
        return len(self.states) > 1 and self.states[-2] in self.table.blocks

    def shifts(self, terminal: str) -> list[bool]:
        """For each open block, from the innermost to the file itself: may `terminal` stand in it?"""
        rows = (self.table.states[state] for state in reversed(self.states) if state in self.table.blocks)
        return [row.get(terminal, -1) >= 0 for row in rows]

    def to_block(self) -> None:
        """Forget what was read of the current statement, unless it is a block that has ended."""
        if self._values and isinstance(self._values[-1], Token) and self._values[-1].type == "RBRACE":
            while self.states[-1] not in self.table.blocks:
                row = self.table.states[self.states[-1]]
                self._reduce(~row.get("RBRACE", row.get("$END", 0)))
        while self.states[-1] not in self.table.blocks:
            self.states.pop()
            self._values.pop()
