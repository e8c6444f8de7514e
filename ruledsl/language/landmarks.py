"""Where reading may go on after an error: what a place in the text looks like, judged by its tokens alone."""

from __future__ import annotations

from collections.abc import Sequence

from ruledsl.language.grammar import starts
from ruledsl.language.lexer import Token

DEFINITIONS = frozenset({"RULE", "OPTIMIZER", "CONSTRAINT"})
AFTER_NAME = frozenset({"EQUAL", "COLON", "ASSIGN", "LBRACE"})
NO_STATEMENT = {block: AFTER_NAME - {"LBRACE"} for block in ("WHEN", "PHASE", "SCHEDULE", "LOCALITY")}


def starts_definition(tokens: Sequence[Token], position: int) -> bool:
    """Whether `rule`, `constraint`, or an `optimizer` with a body stands there."""
    if tokens[position].type != "OPTIMIZER":
        return tokens[position].type in DEFINITIONS
    name, after = token_at(tokens, position + 1), token_at(tokens, position + 2)
    return name.is_name and after.type in ("LBRACE", "STRING")


def starts_statement(tokens: Sequence[Token], position: int, brackets: int, block: frozenset[str]) -> bool:
    """Whether a token looks like the start of a statement, clause, entry or definition, or like a block's end.

    So do `B = ...` and `weigth B` at the start of a line: they were meant to be one. `brackets` is how many were opened
    since reading went wrong, `block` what may start a statement in the innermost block.
    """
    token, following = tokens[position], token_at(tokens, position + 1)
    first = first_on_line(tokens, position)
    if token.type == "RBRACE":
        return True
    if not token.is_name:  # `rule rule {`, `let use = 1`: a name was meant
        return token.type in starts() and (first or following.type not in NO_STATEMENT.get(token.type, AFTER_NAME))
    if following.type == "ASSIGN" or (first and brackets <= 0 and (following.type == "EQUAL" or following.is_name)):
        return True
    return token.type in block and "NAME" not in block  # `first`, `each` and `alternate` in a schedule


def first_on_line(tokens: Sequence[Token], position: int) -> bool:
    """Whether nothing but spaces stands before a token on its line."""
    return position == 0 or tokens[position - 1].span.end_line < tokens[position].span.line


def past_block(tokens: Sequence[Token], position: int) -> int:
    """The position after the `}` that belongs to the `{` there."""
    depth = 0
    for after in range(position, len(tokens) - 1):
        depth += {"LBRACE": 1, "RBRACE": -1}.get(tokens[after].type, 0)
        if depth == 0:
            return after + 1
    return len(tokens) - 1


def token_at(tokens: Sequence[Token], position: int) -> Token:
    """The token there, or the last one, `$END`."""
    return tokens[min(position, len(tokens) - 1)]
