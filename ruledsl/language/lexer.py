"""The lexer that Lark reads with: text -> words and signs, with every slip of the pen in them.

Words and signs of the language come from the grammar; names, numbers and texts are spelled here. Lark's own lexers
stop at a character that they don't know; this one reports it and goes on.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import lark
from lark.common import LexerConf
from lark.lexer import Lexer, LexerState

from ruledsl.diagnostics import Diagnostic, report
from ruledsl.language.slips import PYTHON_WORDS, SIGNS, STAND_INS
from ruledsl.source import Source, Span

LONGEST_FILE = 1_000_000  # characters
MOST_WORDS = 50_000  # words, signs and comments; the longest rule of the library has some hundreds
MOST_ERRORS = 100
LONGEST_NUMBER = 60
LONGEST_QUOTE = 40
START = Span(1, 1, 1, 1)

# The words of a schedule, which are names everywhere else.
CONTEXTUAL = frozenset({"FIRST", "EPOCHS", "EACH", "STEP", "ALTERNATE"})

_PYTHON = frozenset(keyword.kwlist) - {"if", "else", "or", "and", "not", "in"}
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_ESCAPE = re.compile(r"\\(.)")
_HIDDEN = re.compile(  # control characters, and those that reverse or hide text: what is read must be what is seen
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_SHAPES = r"""
    (?P<SPACE>[ \t\r\n\f]++)
  | (?P<COMMENT>\#[^\n]*+)
  | (?P<NAME>[^\W\d]\w*+)
  | (?P<NUMBER>(?:\d|\.\d)(?:[eE][+-](?=\d)|[\w.])*+)
  | (?P<TRANSPOSE>\.[^\W\d]\w*+)
  | (?P<STRING>"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+")
  | (?P<OPEN>"[^\n]*+)
  | (?P<QUOTED>(?<![\w\])'.])'[^'\n]*+')
  | (?P<SLASHES>//[^\n]*+)
  | (?P<COMPOUND>(?:\*\*|[-+*/@])=(?!=))
  | (?P<SIGN>SIGNS)
  | (?P<BAD>(?P<CHARACTER>.)(?P=CHARACTER)*+)
"""


class Token(lark.Token):
    """A word, sign, name, number or text: the terminal of the grammar, the spelling, and the place."""

    __slots__ = ("span",)
    span: Span

    @classmethod
    def at(cls, span: Span, type: str, value: str) -> Token:
        """A token that stands there."""
        token = cls(type, value, None, *span)
        token.span = span
        return token

    @property
    def is_name(self) -> bool:
        """Whether a name may be spelled so."""
        return self.type == "NAME" or self.type in CONTEXTUAL


class Comment(NamedTuple):
    """`# ...`, without the spaces that follow it."""

    text: str
    span: Span


@dataclass
class Words:
    """A text, and what the lexer finds in it besides tokens. `complete` is false where it gave up."""

    text: Source
    comments: list[Comment] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    end: Span = START
    complete: bool = True


class RuleLexer(Lexer):
    """Gives Lark the tokens of `Words`, which stand for the text."""

    __future_interface__ = 2  # tells Lark that `lex` takes the lexer's state, in which Words are

    def __init__(self, conf: LexerConf) -> None:
        self.spellings = {terminal.name: terminal.pattern.value for terminal in conf.terminals}
        self.reserved = {spelling: name for name, spelling in self.spellings.items() if spelling.isalpha()}
        self.signs = {spelling: name for name, spelling in self.spellings.items() if not spelling.isalpha()}
        longest_first = sorted(self.signs, key=lambda sign: (-len(sign), sign))
        shapes = _SHAPES.replace("SIGNS", "|".join(map(re.escape, longest_first)).replace("#", r"\#"))
        self.shapes = re.compile(shapes, re.VERBOSE | re.DOTALL)

    def lex(self, lexer_state: LexerState, parser_state: object) -> Iterator[Token]:
        """The tokens; contextual keywords are told from names by the grammar alone."""
        reader = _Reader(self, cast(Words, lexer_state.text))
        reader.read()
        return iter(reader.tokens)


class _Reader:
    def __init__(self, lexer: RuleLexer, words: Words) -> None:
        self.lexer = lexer
        self.words = words
        self.tokens: list[Token] = []

    def read(self) -> None:
        """Find all tokens."""
        content, tokens, words = self.words.text.content, self.tokens, self.words
        reserved, signs = self.lexer.reserved, self.lexer.signs
        if len(content) > LONGEST_FILE:
            self.complain("E0107", START, size=len(content), limit=LONGEST_FILE)
            content = ""
        line, line_start = 1, 0
        last_bad, bad = -1, 0
        for match in self.lexer.shapes.finditer(content, 1 if content.startswith("\ufeff") else 0):
            shape, spelling, start = match.lastgroup, match.group(), match.start()
            if shape == "SPACE":
                if newlines := spelling.count("\n"):
                    line += newlines
                    line_start = start + spelling.rindex("\n") + 1
                continue
            span = Span(line, start - line_start + 1, line, match.end() - line_start + 1)
            if shape == "NAME" and spelling.isascii() and spelling not in _PYTHON and spelling[0] != "_":
                tokens.append(Token.at(span, reserved.get(spelling, "NAME"), spelling))
            elif shape == "SIGN":
                tokens.append(Token.at(span, signs[spelling], spelling))
            elif shape == "BAD":
                self.bad_character(spelling[0], span, again=start == last_bad)
                last_bad, bad = match.end(), bad + 1
            else:
                assert shape is not None
                getattr(self, shape.lower())(spelling, span)
            if len(tokens) + len(words.comments) + bad > MOST_WORDS:
                self.complain("E0111", span, limit=MOST_WORDS)
                words.complete = False
                break
            if len(words.diagnostics) >= MOST_ERRORS:
                words.complete = False
                break
        end = len(content) - line_start + 1
        words.end = Span(line, end, line, end)

    def complain(self, code: str, span: Span, help: str | None = None, **values: object) -> None:
        self.words.diagnostics.append(report(code, span, help=help, text=self.words.text, **values))

    def add(self, span: Span, type: str, value: str) -> None:
        self.tokens.append(Token.at(span, type, value))

    # --- one method for each shape that needs a second look ---

    def name(self, spelling: str, span: Span) -> None:
        odd = next((c for c in spelling if not c.isascii()), None)
        if odd is not None:
            self.complain("E0102", span, _about_letter(odd, spelling), character=odd)
        elif spelling[0] == "_":
            plain = spelling.strip("_")
            better = f"write `{short(plain)}`" if plain[:1].isalpha() else "choose another name"
            self.complain("E0110", span, better, written=short(spelling), reason="a name starts with a letter")
        elif spelling not in self.lexer.reserved:
            reason = "Python, in which rules are compiled, keeps this word for itself"
            better = PYTHON_WORDS.get(spelling, f"choose another name, for example `{spelling}_`")
            self.complain("E0110", span, better, written=spelling, reason=reason)
        self.add(span, self.lexer.reserved.get(spelling, "NAME"), spelling)

    def number(self, spelling: str, span: Span) -> None:
        help = _about_number(spelling)
        if help is not None:
            self.complain("E0106", span, help or None, written=short(spelling))
        self.add(span, "NUMBER", "0" if help is not None else spelling)

    def transpose(self, spelling: str, span: Span) -> None:
        if spelling != ".T":
            reason = "the only thing that may follow a dot is the `T` of a transpose"
            self.complain("E0110", span, written=short(spelling), reason=reason)
        self.add(span, "TRANSPOSE", ".T")

    def string(self, spelling: str, span: Span) -> None:
        self.look_for_hidden(spelling, span)
        for escape in _ESCAPE.finditer(spelling):
            if escape.group(1) not in '"\\':
                at = Span(span.line, span.column + escape.start(), span.line, span.column + escape.end())
                self.complain(
                    "E0110", at, written=escape.group(), reason='a text knows the escapes `\\"` and `\\\\` only'
                )
                break
        self.add(span, "STRING", spelling)

    def open(self, spelling: str, span: Span) -> None:
        self.look_for_hidden(spelling, span)
        self.complain("E0104", span, 'a text ends on the line where it starts, with `"`')
        written = spelling.rstrip()
        self.add(span, "STRING", '""')
        if written.endswith("{"):  # surely the brace of `rule name "Title {`
            column = span.column + len(written)
            self.add(Span(span.line, column - 1, span.line, column), "LBRACE", "{")

    def quoted(self, spelling: str, span: Span) -> None:
        help = 'write it in double quotes: `"' + short(spelling[1:-1].replace('"', "")) + '"`'
        self.complain("E0110", span, help, written=short(spelling), reason="a text stands in double quotes")
        self.add(span, "STRING", '""')

    def slashes(self, spelling: str, span: Span) -> None:
        help = "a comment starts with `#`; a division is a single `/`"
        self.complain("E0110", span, help, written="//", reason="it has no meaning in a rule")

    def compound(self, spelling: str, span: Span) -> None:
        name = self.tokens[-1].value if self.tokens and self.tokens[-1].type == "NAME" else "B"
        help = f"write `{short(name)} <- {short(name)} {spelling[:-1]} ...`"
        self.complain("E0110", span, help, written=spelling, reason="an update is written with `<-`")
        self.add(span, "ASSIGN", "<-")

    def comment(self, spelling: str, span: Span) -> None:
        written = spelling.rstrip()
        self.look_for_hidden(written, span)
        self.words.comments.append(Comment(written, span))

    def bad_character(self, character: str, span: Span, again: bool) -> None:
        """Report it, unless the one before it was bad too; read it as the sign that it surely stands for."""
        if not again:
            help = SIGNS.get(character, "take it out")
            if not character.isascii() and unicodedata.category(character) != "Cs":
                help = f"this is {_official_name(character)}; {help}"
            self.complain("E0102", span, help, character=visible(character))
        if character in STAND_INS:
            self.add(span, STAND_INS[character], self.lexer.spellings.get(STAND_INS[character], ".T"))

    def look_for_hidden(self, spelling: str, span: Span) -> None:
        if not spelling.isprintable() and (hidden := _HIDDEN.search(spelling)):
            at = Span(span.line, span.column + hidden.start(), span.line, span.column + hidden.end())
            help = f"this is {_official_name(hidden.group())}, which can't be seen; take it out"
            self.complain("E0102", at, help, character=visible(hidden.group()))


def short(text: str) -> str:
    """A stretch of text as a message quotes it: not too long, nothing in it that can't be seen."""
    shown = text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 3] + "..."
    return "".join(map(visible, shown))


def visible(character: str) -> str:
    """A character, or its code point where it can't be seen."""
    return character if character.isprintable() else f"U+{ord(character):04X}"


def _official_name(character: str) -> str:
    return f"{unicodedata.name(character, 'a character without a name')} (U+{ord(character):04X})"


def _about_letter(character: str, name: str) -> str:
    """What to write instead of a letter that is none of A-Z: `delta` for a Greek one, `.T`, `** 2`."""
    if character in SIGNS:
        advice = SIGNS[character]
    else:
        advice = "names are written with A-Z, a-z, 0-9 and _"
        official = unicodedata.name(character, "")
        if official.startswith("GREEK") and len(name) == 1:
            advice += f"; write `{official.split()[-1].lower()}`, for example"
    return f"this is {_official_name(character)}; {advice}"


def _about_number(spelling: str) -> str | None:
    """None for a good number; else what to do, "" where there is nothing to say."""
    if len(spelling) > LONGEST_NUMBER:
        return f"a number has at most {LONGEST_NUMBER} characters"
    if not _NUMBER.fullmatch(spelling):
        if _NUMBER.fullmatch(spelling.replace("_", "")):
            return f"write `{spelling.replace('_', '')}`"
        if split := re.fullmatch(r"([0-9.]*[0-9])([A-Za-z]\w*)", spelling):
            number, name = split.groups()
            return f"write `{short(number)} * {short(name)}` for a product" if _NUMBER.fullmatch(number) else ""
        if spelling.endswith(".T"):
            return "a number has no transpose"
        return ""
    value = float(spelling)
    if value == float("inf"):
        return "it is too large; the largest number is about 1.8e308, and infinity is written `inf`"
    if value == 0 and re.search("[1-9]", re.split("[eE]", spelling)[0]):
        return "it is too small to be told from 0; the smallest number is about 5e-324"
    return None
