"""Source -> syntax tree, and every error of the text in one go.

Lark reads. It is fed token by token, for the sake of what happens at an error: the statement that it stands in is
given up, and reading goes on with the next one, in the block where that one belongs. So each open block keeps a copy
of the parser as it was when the block's last statement started.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from lark import UnexpectedToken
from lark.parsers.lalr_interactive_parser import InteractiveParser

from ruledsl.diagnostics import Diagnostic, report
from ruledsl.language.builder import DEEPEST, Refused, too_deep
from ruledsl.language.grammar import rule_parser, starts
from ruledsl.language.landmarks import (
    DEFINITIONS,
    first_on_line,
    past_block,
    starts_definition,
    starts_statement,
    token_at,
)
from ruledsl.language.lexer import CONTEXTUAL, MOST_ERRORS, Comment, Token, Words
from ruledsl.language.syntax_errors import Brace, Situation, complaint, missing_brace
from ruledsl.language.tree import Definition, File
from ruledsl.source import Source, Span

# How the head of a block is completed when it is wrong, so that what stands in the block can still be read.
HEADS = {
    "WHEN": ("WHEN", "TRUE"),
    "AFTER": ("AFTER", "STEP"),
    "PHASE": ("PHASE", "NAME"),
    "SCHEDULE": ("SCHEDULE",),
    "LOCALITY": ("LOCALITY",),
    **{kind: (kind, "NAME") for kind in DEFINITIONS},
}


class Reading(NamedTuple):
    """What was read: the tree, the diagnostics in the order of the text, and what the formatter needs besides."""

    file: File
    diagnostics: list[Diagnostic]
    comments: list[Comment]
    tokens: list[Token]


def parse(text: Source) -> tuple[File, list[Diagnostic]]:
    """The definitions that could be read, and everything that is wrong with the text (E01xx). Raises nothing.

    A definition with an error in it lacks the statement that is wrong.
    """
    reading = read(text)
    return reading.file, reading.diagnostics


def read(text: Source) -> Reading:
    """As `parse`, with the comments and tokens."""
    words = Words(text)
    parser = _Parser(words)
    definitions = parser.run() if words.complete else ()
    found = parser.diagnostics
    if not definitions and not found:
        help = 'a file starts with `rule NAME "Title" {`, for example'
        found.append(report("E0108", Span(1, 1, 1, 1), help=help, text=text))
    found.sort(key=lambda diagnostic: diagnostic.span)
    named = tuple(definition for definition in definitions if definition.name.id)
    file = File.model_construct(span=Span(1, 1, 1, 1).to(words.end), definitions=named)
    return Reading(file, found, words.comments, parser.tokens)


@dataclass
class _Block:
    """An open block, or the file itself, which has no brace."""

    brace: Brace | None
    starts: frozenset[str]  # the terminals that may start a statement in it, or end it
    parser: InteractiveParser  # as it was where its last statement started
    position: int  # of the first token that it had not read


class _Parser:
    def __init__(self, words: Words) -> None:
        self.text = words.text
        self.lines = words.text.content.split("\n")
        self.lark = rule_parser().parse_interactive(words)
        self.tokens: list[Token] = list(self.lark.lexer_thread.lex(self.lark.parser_state))
        self.tokens.append(Token.at(words.end, "$END", ""))
        self.diagnostics = list(words.diagnostics)
        self.bad_words = [diagnostic.span for diagnostic in words.diagnostics]
        self.open_text = any(diagnostic.code == "E0104" for diagnostic in words.diagnostics)
        self.blocks: list[_Block] = []  # those that are open, the file first
        self.brackets: list[Token] = []  # those that are open in this statement
        self.misplaced: Brace | None = None  # the first brace whose partner stands further left than its line
        self.statement = 0  # the token that starts it
        self.given_up = -1  # where reading went wrong last
        self.open_block(None, 0)

    def run(self) -> tuple[Definition, ...]:
        """Read all tokens; the definitions that were read to their end."""
        position: int | None = 0
        while position is not None and len(self.diagnostics) < MOST_ERRORS:
            position = self.step(position)
        return cast(tuple[Definition, ...], self.blocks[0].parser.feed_token(self.tokens[-1]))

    def step(self, position: int) -> int | None:
        """Read one token; the position of the next one, or None where there is nothing left to do."""
        token, block = self.tokens[position], self.blocks[-1]
        if token.type == "LBRACE" and len(self.blocks) > DEEPEST:
            self.report(too_deep(token.span).diagnostic)
            return None
        if token.type == "OPTIMIZER" and len(self.blocks) > 1 and starts_definition(self.tokens, position):
            return self.unexpected(position)
        start = _copy(self.lark) if token.type in block.starts and self.block_may_end() else None
        try:
            if token.type in ("LPAR", "LSQB") and len(self.brackets) == DEEPEST:
                raise too_deep(token.span)
            self.lark.feed_token(token)
        except UnexpectedToken:
            self.lark = self.read_again(position)
            return self.unexpected(position)
        except Refused as refused:
            self.report(refused.diagnostic)
            return self.resume(position)
        if start is not None:
            block.parser, block.position = start, position
            self.start_statement(position)
        self.keep_count(position)
        return position + 1 if token.type != "$END" else None

    def keep_count(self, position: int) -> None:
        """Note which brackets and blocks are open after this token."""
        token = self.tokens[position]
        match token.type:
            case "LPAR" | "LSQB":
                self.brackets.append(token)
            case "RPAR" | "RSQB":
                del self.brackets[-1:]
            case "LBRACE":
                self.open_block(token, position + 1)
            case "RBRACE":
                brace = self.blocks[-1].brace
                self.close_block(position + 1)
                if brace and self.indent(token) < self.indent(brace.token) and token.span.line != brace.token.span.line:
                    self.misplaced = self.misplaced or brace

    def start_statement(self, position: int) -> None:
        """Note that what was read before this token is complete."""
        self.statement = position
        self.brackets.clear()

    def open_block(self, brace: Token | None, following: int) -> None:
        """Note that a block has started, or the file; `following` is the position of what stands in it."""
        head = self.tokens[self.statement : self.statement + 2]
        terminals = frozenset(symbol for symbol in self.lark.choices() if symbol.isupper())
        opened = None if brace is None else Brace(brace, head)
        self.blocks.append(_Block(opened, terminals, _copy(self.lark), following))

    def close_block(self, following: int) -> None:
        """Note that the innermost block has ended."""
        self.blocks.pop()
        self.blocks[-1].parser, self.blocks[-1].position = _copy(self.lark), following
        self.start_statement(following)

    def block_may_end(self) -> bool:
        """Whether what was read of the innermost block might be complete: only there can a statement start."""
        choices = self.lark.choices()
        return "RBRACE" in choices or "$END" in choices

    def read_again(self, position: int) -> InteractiveParser:
        """The parser as it is before this token, which is one of the current statement or stands right after it."""
        block = self.blocks[-1]
        parser = _copy(block.parser)
        for token in self.tokens[block.position : position]:
            parser.feed_token(token)
        return parser

    def indent(self, token: Token) -> int:
        """How far the line of a token is indented."""
        line = self.lines[token.span.line - 1]
        return len(line) - len(line.lstrip(" \t"))

    # --- at an error ---

    def report(self, diagnostic: Diagnostic) -> None:
        """Add a diagnostic about this text."""
        self.diagnostics.append(replace(diagnostic, text=self.text))

    def unexpected(self, position: int) -> int | None:
        """Say that a token can't stand here; the position where reading goes on, None if that is nowhere."""
        self.report_unexpected(position)
        begins = self.tokens[position].type in CONTEXTUAL or self.may_start_statement(position, 0)
        if begins and (self.insert_brace(position) or self.insert_ends(position)):
            return position
        return self.resume(position)

    def report_unexpected(self, position: int) -> None:
        """Say that a token can't stand here, unless a bad word in the same statement explains that already."""
        token = self.tokens[position]
        since = self.tokens[max(0, self.statement - 1)].span
        if self.open_text if token.type == "$END" else any(since <= bad <= token.span for bad in self.bad_words):
            return
        blocks = self.blocks_for(position)
        expected = self.lark.accepts()
        if "NAME" in expected:
            expected -= CONTEXTUAL
        lacks_brace = token.type in starts() and not blocks[0] and any(blocks)
        lacks_brace &= "RBRACE" in expected or first_on_line(self.tokens, position)
        brace = self.blocks[-1].brace
        if brace and not lacks_brace:
            brace = self.misplaced or brace
        situation = Situation(self.tokens, position, expected, self.statement, brace, self.brackets, lacks_brace)
        self.report(complaint(situation))

    def blocks_for(self, position: int) -> list[bool]:
        """For each open block, from the innermost to the file itself: may what starts here stand in it?"""
        terminal = "RULE" if starts_definition(self.tokens, position) else self.tokens[position].type
        return [terminal in block.starts for block in reversed(self.blocks)]

    def resume(self, position: int) -> int | None:
        """Give up the current statement; the position where the next one starts, None if there is none."""
        if position == self.given_up and self.tokens[position].type != "$END":
            position += 1  # no token is tried a third time
        self.given_up = position
        head = HEADS.get(self.tokens[self.statement].type)
        brackets = 0
        while (token := self.tokens[position]).type != "$END":
            if token.type == "LBRACE" and head is not None and self.complete_head(head, token):
                return position
            if token.type == "LBRACE":
                position = past_block(self.tokens, position)
                continue
            if self.may_start_statement(position, brackets) and self.enter_block_of(position):
                return position
            brackets += {"LPAR": 1, "LSQB": 1, "RPAR": -1, "RSQB": -1}.get(token.type, 0)
            position += 1
        self.close_blocks(position)
        return None

    def complete_head(self, head: tuple[str, ...], brace: Token) -> bool:
        """Read on as if the head of the block were right; False if no such block may stand here."""
        parser = _copy(self.blocks[-1].parser)
        try:
            for terminal in head:
                parser.feed_token(Token.at(brace.span, terminal, ""))
            _copy(parser).feed_token(brace)
        except UnexpectedToken:
            return False
        self.lark = parser
        return True

    def insert_brace(self, position: int) -> bool:
        """Read on as if the `{` of a block stood before this token, if that is all that lacks."""
        brace = Token.at(self.tokens[position].span, "LBRACE", "{")
        try:
            self.lark.feed_token(brace)
        except (UnexpectedToken, Refused):
            return False
        self.open_block(brace, position)
        return True

    def insert_ends(self, position: int) -> bool:
        """Read on as if blocks where this token can't stand had ended before it, if that is all that lacks."""
        blocks, parser = self.blocks_for(position), _copy(self.lark)
        if True not in blocks or self.tokens[position].is_name:
            return False
        outer = blocks.index(True)
        try:
            for _ in range(outer):
                parser.feed_token(Token.at(self.tokens[position].span, "RBRACE", "}"))
            for token in self.tokens[position : position + 2]:
                parser.feed_token(token)
        except (UnexpectedToken, Refused):
            return False
        self.end_blocks(outer, position)
        return True

    def may_start_statement(self, position: int, brackets: int) -> bool:
        """Whether what stands there looks like the start of a statement of this block, or of anything else."""
        return starts_statement(self.tokens, position, brackets, self.blocks[-1].starts)

    def enter_block_of(self, position: int) -> bool:
        """Go to the innermost block in which the token may stand; braces that lack before it count as written."""
        token, blocks = self.tokens[position], self.blocks_for(position)
        if True not in blocks:
            return False
        outer = blocks.index(True)
        if outer > 0 and (token.is_name or token.type == "RBRACE" or not self.starts_afresh(position)):
            return False
        self.end_blocks(outer, position)
        return True

    def starts_afresh(self, position: int) -> bool:
        """Whether a token that belongs into an outer block stands where one would start something new there."""
        names = starts_definition(self.tokens, position) and token_at(self.tokens, position + 1).is_name
        return names or first_on_line(self.tokens, position)

    def end_blocks(self, number: int, position: int) -> None:
        """Give up the current statement and read on as if that many `}` stood before this token."""
        self.lark = _copy(self.blocks[-1].parser)
        self.blocks[-1].position = position
        self.start_statement(position)
        for _ in range(number):
            self.lark.feed_token(Token.at(self.tokens[position].span, "RBRACE", "}"))
            self.close_block(position)

    def close_blocks(self, position: int) -> None:
        """End the file as if all its blocks had ended; say so if that wasn't said yet."""
        brace = self.blocks[-1].brace
        if brace and not self.open_text and not any(found.code == "E0103" for found in self.diagnostics):
            self.report(missing_brace(self.misplaced or brace))
        self.end_blocks(len(self.blocks) - 1, position)


def _copy(parser: InteractiveParser) -> InteractiveParser:
    """A copy that reads on by itself. It shares the values, which are never changed: a copy of them would take long."""
    copy: InteractiveParser = parser.copy(deepcopy_values=False)
    return copy
