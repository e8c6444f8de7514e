"""The grammar as Lark's LALR parser, and what the messages about errors need to know of it."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

from lark import Lark

from ruledsl.folders import cache_folder
from ruledsl.language.builder import TreeBuilder
from ruledsl.language.lexer import CONTEXTUAL, RuleLexer, Token
from ruledsl.source import Span

GRAMMAR = Path(__file__).with_name("grammar.lark")
BLOCKS = (["RULE", "NAME", "LBRACE"], ["SCHEDULE", "LBRACE"], ["RBRACE", "LOCALITY", "LBRACE"])  # as they are opened


@lru_cache
def rule_parser() -> Lark:
    """The parser. It takes `Words` and returns the definitions in them; a conflict in the grammar is an error."""
    return Lark(
        GRAMMAR.read_text(encoding="utf-8"),
        parser="lalr",
        lexer=RuleLexer,
        transformer=TreeBuilder(),
        keep_all_tokens=True,
        maybe_placeholders=False,
        strict=True,
        cache=_cache(),
    )


def _cache() -> str | bool:
    """Where Lark keeps its analysis of the grammar, which takes longer than to check all rules of the library.

    It is made anew for another grammar, Lark or Python, or if it is damaged. False where nothing can be kept.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return str(folder / f"grammar.{sys.implementation.cache_tag}.lark")


@lru_cache
def spellings() -> dict[str, str]:
    """Terminal -> how it is written, for those that are always written in one way."""
    return {terminal.name: terminal.pattern.value for terminal in rule_parser().terminals}


@lru_cache
def starts() -> frozenset[str]:
    """The reserved words that start a definition, statement, clause or entry, and the sign that ends a block."""
    parser = rule_parser().parse_interactive()
    found = parser.accepts()
    for opening in BLOCKS:
        for terminal in opening:
            parser.feed_token(Token.at(Span(1, 1, 1, 1), terminal, terminal))
        found |= parser.accepts()
    return frozenset(found - CONTEXTUAL - {"NAME", "$END"})
