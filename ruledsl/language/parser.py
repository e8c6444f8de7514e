"""Text -> syntax tree, and every error of the text in one go.

The automaton of the grammar is driven here, for the sake of what happens at an error: the statement that it stands
in is given up, and reading goes on with the next one, in the block where that one belongs.
"""

from __future__ import annotations

from typing import NamedTuple

from ruledsl.diagnostics import Diagnostic, report
from ruledsl.language.automaton import Automaton
from ruledsl.language.builder import DEEPEST, Refused, too_deep
from ruledsl.language.lexer import CONTEXTUAL, MOST_ERRORS, Comment, Token, read_words
from ruledsl.language.syntax_errors import Brace, Situation, complaint, missing_brace
from ruledsl.language.table import table
from ruledsl.language.tree import File
from ruledsl.source import Source, Span

DEFINITIONS = frozenset({"RULE", "OPTIMIZER", "CONSTRAINT"})
# How the head of a block is completed when it is wrong, so that what stands in the block can still be read.
HEADS = {
    "WHEN": ("WHEN", "TRUE"),
    "AFTER": ("AFTER", "STEP"),
    "PHASE": ("PHASE", "NAME"),
    "SCHEDULE": ("SCHEDULE",),
    "LOCALITY": ("LOCALITY",),
    **{kind: (kind, "NAME") for kind in DEFINITIONS},
}
AFTER_NAME = frozenset({"EQUAL", "COLON", "ASSIGN", "LBRACE"})
NO_STATEMENT = {block: AFTER_NAME - {"LBRACE"} for block in ("WHEN", "PHASE", "SCHEDULE", "LOCALITY")}


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
    words = read_words(text)
    parser = _Parser(text, words.tokens, words.diagnostics)
    if words.complete:
        parser.run()
    definitions, found = parser.automaton.definitions, parser.diagnostics
    if not definitions and not found:
        help = 'a file starts with `rule NAME "Title" {`, for example'
        found.append(report("E0108", Span(1, 1, 1, 1), help=help, text=text))
    found.sort(key=lambda diagnostic: diagnostic.span)
    named = tuple(definition for definition in definitions if definition.name.id)
    file = File.model_construct(span=Span(1, 1, 1, 1).to(words.tokens[-1].span), definitions=named)
    return Reading(file, found, words.comments, words.tokens)


class _Parser:
    def __init__(self, text: Source, tokens: list[Token], diagnostics: list[Diagnostic]) -> None:
        self.text = text
        self.lines = text.content.split("\n")
        self.tokens = tokens
        self.diagnostics = list(diagnostics)
        self.bad_words = [diagnostic.span for diagnostic in diagnostics]
        self.open_text = any(diagnostic.code == "E0104" for diagnostic in diagnostics)
        self.automaton = Automaton()
        self.braces: list[Brace] = []  # those that are open
        self.brackets: list[Token] = []  # those that are open in this statement
        self.misplaced: Brace | None = None  # the first brace whose partner stands further left than its line
        self.statement = 0  # the token that starts it
        self.given_up = -1  # where reading went wrong last

    def run(self) -> None:
        """Read all tokens."""
        position: int | None = 0
        while position is not None and len(self.diagnostics) < MOST_ERRORS:
            position = self.step(position)

    def step(self, position: int) -> int | None:
        """Read one token; the position of the next one, or None where there is nothing left to do."""
        token, automaton = self.tokens[position], self.automaton
        if token.type == "LBRACE" and len(self.braces) == DEEPEST:
            self.report(too_deep(token.span).diagnostic)
            return None
        before = automaton.states.copy()
        lacks_brace = token.type == "OPTIMIZER" and bool(self.braces) and self.starts_definition(position)
        try:
            if token.type in ("LPAR", "LSQB") and len(self.brackets) == DEEPEST:
                raise too_deep(token.span)
            if lacks_brace or not automaton.advance(self.terminal(token), token):
                self.report_unexpected(position, before)
                return self.resume(position)
        except Refused as refused:
            self.report(refused.diagnostic)
            return self.resume(position)
        if automaton.at_start():
            self.statement = position
            self.brackets.clear()
        self.keep_count(token)
        return position + 1 if token.type != "$END" else None

    def terminal(self, token: Token) -> str:
        """What a token is here: `step` is a keyword after `each`, and a name elsewhere."""
        keyword = token.text.upper()
        if token.type == "NAME" and keyword in CONTEXTUAL and token.text.islower():
            return keyword if table().accepts(self.automaton.states, keyword) else "NAME"
        return token.type

    def keep_count(self, token: Token) -> None:
        """Note which brackets and braces are open."""
        match token.type:
            case "LPAR" | "LSQB":
                self.brackets.append(token)
            case "RPAR" | "RSQB":
                del self.brackets[-1:]
            case "LBRACE":
                self.braces.append(Brace(token, self.tokens[self.statement : self.statement + 2]))
            case "RBRACE" if self.braces:
                brace = self.braces.pop()
                if self.indent(token) < self.indent(brace.token) and token.span.line != brace.token.span.line:
                    self.misplaced = self.misplaced or brace

    def indent(self, token: Token) -> int:
        """How far the line of a token is indented."""
        line = self.lines[token.span.line - 1]
        return len(line) - len(line.lstrip(" \t"))

    # --- at an error ---

    def report(self, diagnostic: Diagnostic) -> None:
        """Add a diagnostic about this text."""
        code, message, span, help = diagnostic.code, diagnostic.message, diagnostic.span, diagnostic.help
        self.diagnostics.append(Diagnostic(code, message, span, help, self.text))

    def report_unexpected(self, position: int, before: list[int]) -> None:
        """Say that a token can't stand here, unless a bad word in the same statement explains that already."""
        token = self.tokens[position]
        since = self.tokens[max(0, self.statement - 1)].span
        if self.open_text if token.type == "$END" else any(since <= bad <= token.span for bad in self.bad_words):
            return
        blocks = self.automaton.shifts("RULE" if self.starts_definition(position) else token.type)
        lacks_brace = token.type in table().starts and not blocks[0] and any(blocks)
        brace = None if not self.braces else self.braces[-1] if lacks_brace else self.misplaced or self.braces[-1]
        expected = table().expected(before)
        situation = Situation(self.tokens, position, expected, self.statement, brace, self.brackets, lacks_brace)
        self.report(complaint(situation))

    def resume(self, position: int) -> int | None:
        """Give up the current statement; the position where the next one starts, None if there is none."""
        contextual = self.tokens[position].text.upper() in CONTEXTUAL
        if (contextual or self.starts_statement(position, 0)) and self.insert_brace(position):
            return position
        if position == self.given_up and self.tokens[position].type != "$END":
            position += 1  # no token is tried a third time
        self.given_up = position
        head = HEADS.get(self.tokens[self.statement].type)
        brackets = 0
        while (token := self.tokens[position]).type != "$END":
            if token.type == "LBRACE" and head is not None and self.complete_head(head, token):
                return position
            if token.type == "LBRACE":
                position = self.past_block(position)
                continue
            if self.starts_statement(position, brackets) and self.enter_block_of(position):
                return position
            brackets += {"LPAR": 1, "LSQB": 1, "RPAR": -1, "RSQB": -1}.get(token.type, 0)
            position += 1
        self.close_blocks(position)
        return None

    def complete_head(self, head: tuple[str, ...], brace: Token) -> bool:
        """Read on as if the head of the block were right; False if no such block may stand here."""
        self.automaton.to_block()
        fits = all(self.automaton.advance(terminal, _made_up("", brace)) for terminal in head)
        return fits and table().accepts(self.automaton.states, "LBRACE")

    def insert_brace(self, position: int) -> bool:
        """Read on as if the `{` of a block stood before this token, if that is all that lacks."""
        brace = _made_up("{", self.tokens[position])
        try:
            if not table().accepts(self.automaton.states, "LBRACE") or not self.automaton.advance("LBRACE", brace):
                return False
        except Refused:
            return False
        self.keep_count(brace)
        return True

    def starts_definition(self, position: int) -> bool:
        """Whether `rule`, `constraint`, or an `optimizer` with a body stands here."""
        if self.tokens[position].type != "OPTIMIZER":
            return self.tokens[position].type in DEFINITIONS
        following = [token.type for token in self.tokens[position + 1 : position + 3]]
        return following in (["NAME", "LBRACE"], ["NAME", "STRING"])

    def starts_statement(self, position: int, brackets: int) -> bool:
        """Whether a token looks like the start of a statement, clause, entry or definition, or like a block's end.

        So do `B = ...` and `weigth B` at the start of a line: they were meant to be one.
        """
        token, following = self.tokens[position], self.tokens[min(position + 1, len(self.tokens) - 1)].type
        first = position == 0 or self.tokens[position - 1].span.end_line < token.span.line
        if token.type == "RBRACE":
            return True
        if token.type != "NAME":  # `rule rule {`, `let use = 1`: a name was meant
            return token.type in table().starts and (first or following not in NO_STATEMENT.get(token.type, AFTER_NAME))
        if following == "ASSIGN" or (first and brackets <= 0 and following in ("EQUAL", "NAME")):
            return True
        keyword = token.text.upper()
        return keyword in CONTEXTUAL and self.automaton.shifts(keyword)[0]

    def enter_block_of(self, position: int) -> bool:
        """Go to the innermost block in which the token may stand; braces that lack before it count as written."""
        token = self.tokens[position]
        self.automaton.to_block()
        terminal = "RULE" if self.starts_definition(position) else self.terminal(token)
        blocks = self.automaton.shifts(terminal)
        outer = next((level for level, shifts in enumerate(blocks) if shifts), None)
        if outer is None or (outer > 0 and token.type in ("NAME", "RBRACE")):
            return False
        for _ in range(outer):
            self.automaton.advance("RBRACE", _made_up("}", token))
            del self.braces[-1:]
        return True

    def past_block(self, position: int) -> int:
        """The position after the `}` that belongs to the `{` here."""
        depth = 0
        for after in range(position, len(self.tokens) - 1):
            depth += {"LBRACE": 1, "RBRACE": -1}.get(self.tokens[after].type, 0)
            if depth == 0:
                return after + 1
        return len(self.tokens) - 1

    def close_blocks(self, position: int) -> None:
        """End the file as if all its blocks had ended; say so if that wasn't said yet."""
        token = self.tokens[position]
        if self.braces and not self.open_text and not any(found.code == "E0103" for found in self.diagnostics):
            self.report(missing_brace(self.misplaced or self.braces[-1]))
        self.automaton.to_block()
        for _ in self.automaton.shifts("RULE")[1:]:
            self.automaton.advance("RBRACE", _made_up("}", token))
        self.automaton.advance("$END", token)


def _made_up(text: str, near: Token) -> Token:
    """A token that the text lacks."""
    return Token("RBRACE" if text == "}" else "LBRACE" if text == "{" else "NAME", text, near.span)
