"""Text -> words and signs, with every slip of the pen in them; a bad one is reported and reading goes on.

Words and signs of the language come from the grammar (`Table.spellings`); names, numbers and texts are spelled here.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from ruledsl.diagnostics import Diagnostic, report
from ruledsl.language.slips import PYTHON_WORDS, SIGNS, STAND_INS
from ruledsl.language.table import table
from ruledsl.source import Source, Span

LONGEST_FILE = 1_000_000  # characters
MOST_WORDS = 50_000  # words, signs and comments; the longest rule of the library has some hundreds
MOST_ERRORS = 100
LONGEST_NUMBER = 60
LONGEST_QUOTE = 40

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


class Token(NamedTuple):
    """A word, sign, name, number or text: the terminal of the grammar, the spelling, and the place."""

    type: str
    text: str
    span: Span


class Comment(NamedTuple):
    """`# ...`, without the spaces that follow it."""

    text: str
    span: Span


class Words(NamedTuple):
    """What a text consists of; the last token is `$END`. `complete` is false where reading was given up."""

    tokens: list[Token]
    comments: list[Comment]
    diagnostics: list[Diagnostic]
    complete: bool


@lru_cache
def _shapes() -> tuple[re.Pattern[str], dict[str, str], dict[str, str]]:
    """One pattern for everything, the terminals of the reserved words, and those of the signs."""
    spellings = table().spellings
    words = {spelling: name for name, spelling in spellings.items() if spelling.isalpha() and name not in CONTEXTUAL}
    signs = {spelling: name for name, spelling in spellings.items() if not spelling.isalpha()}
    longest_first = sorted(signs, key=lambda sign: (-len(sign), sign))
    shapes = _SHAPES.replace("SIGNS", "|".join(map(re.escape, longest_first)).replace("#", r"\#"))
    return re.compile(shapes, re.VERBOSE | re.DOTALL), words, signs


def read_words(text: Source) -> Words:
    """The words of a text. Contextual keywords are read as names; the parser knows where they are none."""
    if len(text.content) > LONGEST_FILE:
        start = Span(1, 1, 1, 1)
        too_long = report("E0107", start, text=text, size=len(text.content), limit=LONGEST_FILE)
        return Words([Token("$END", "", start)], [], [too_long], complete=False)
    return _Lexer(text).read()


class _Lexer:
    def __init__(self, text: Source) -> None:
        self.text = text
        self.tokens: list[Token] = []
        self.comments: list[Comment] = []
        self.diagnostics: list[Diagnostic] = []

    def read(self) -> Words:
        shapes, words, signs = _shapes()
        content, tokens = self.text.content, self.tokens
        line, line_start, complete = 1, 0, True
        last_bad, bad = -1, 0
        for match in shapes.finditer(content, 1 if content.startswith("\ufeff") else 0):
            shape, spelling, start = match.lastgroup, match.group(), match.start()
            if shape == "SPACE":
                if newlines := spelling.count("\n"):
                    line += newlines
                    line_start = start + spelling.rindex("\n") + 1
                continue
            span = Span(line, start - line_start + 1, line, match.end() - line_start + 1)
            if shape == "NAME" and spelling.isascii() and spelling not in _PYTHON and spelling[0] != "_":
                kind = words.get(spelling, "NAME")
                tokens.append(Token(kind, spelling, span))
            elif shape == "SIGN":
                tokens.append(Token(signs[spelling], spelling, span))
            elif shape == "BAD":
                self.bad_character(spelling[0], span, again=start == last_bad)
                last_bad, bad = match.end(), bad + 1
            else:
                assert shape is not None
                getattr(self, shape.lower())(spelling, span, words)
            if len(tokens) + len(self.comments) + bad > MOST_WORDS:
                self.complain("E0111", span, limit=MOST_WORDS)
                complete = False
                break
            if len(self.diagnostics) >= MOST_ERRORS:
                complete = False
                break
        end = len(content) - line_start + 1
        tokens.append(Token("$END", "", Span(line, end, line, end)))
        return Words(tokens, self.comments, self.diagnostics, complete)

    def complain(self, code: str, span: Span, help: str | None = None, **values: object) -> None:
        self.diagnostics.append(report(code, span, help=help, text=self.text, **values))

    # --- one method for each shape that needs a second look ---

    def name(self, spelling: str, span: Span, words: dict[str, str]) -> None:
        odd = next((c for c in spelling if not c.isascii()), None)
        if odd is not None:
            self.complain("E0102", span, _about_letter(odd, spelling), character=odd)
        elif spelling[0] == "_":
            plain = spelling.strip("_")
            better = f"write `{short(plain)}`" if plain[:1].isalpha() else "choose another name"
            self.complain("E0110", span, better, written=short(spelling), reason="a name starts with a letter")
        elif spelling not in words:
            reason = "Python, in which rules are compiled, keeps this word for itself"
            better = PYTHON_WORDS.get(spelling, f"choose another name, for example `{spelling}_`")
            self.complain("E0110", span, better, written=spelling, reason=reason)
        self.tokens.append(Token(words.get(spelling, "NAME"), spelling, span))

    def number(self, spelling: str, span: Span, words: dict[str, str]) -> None:
        help = _about_number(spelling)
        if help is not None:
            self.complain("E0106", span, help or None, written=short(spelling))
        self.tokens.append(Token("NUMBER", "0" if help is not None else spelling, span))

    def transpose(self, spelling: str, span: Span, words: dict[str, str]) -> None:
        if spelling != ".T":
            reason = "the only thing that may follow a dot is the `T` of a transpose"
            self.complain("E0110", span, written=short(spelling), reason=reason)
        self.tokens.append(Token("TRANSPOSE", ".T", span))

    def string(self, spelling: str, span: Span, words: dict[str, str]) -> None:
        self.look_for_hidden(spelling, span)
        for escape in _ESCAPE.finditer(spelling):
            if escape.group(1) not in '"\\':
                at = Span(span.line, span.column + escape.start(), span.line, span.column + escape.end())
                self.complain(
                    "E0110", at, written=escape.group(), reason='a text knows the escapes `\\"` and `\\\\` only'
                )
                break
        self.tokens.append(Token("STRING", spelling, span))

    def open(self, spelling: str, span: Span, words: dict[str, str]) -> None:
        self.look_for_hidden(spelling, span)
        self.complain("E0104", span, 'a text ends on the line where it starts, with `"`')
        written = spelling.rstrip()
        self.tokens.append(Token("STRING", '""', span))
        if written.endswith("{"):  # surely the brace of `rule name "Title {`
            column = span.column + len(written)
            self.tokens.append(Token("LBRACE", "{", Span(span.line, column - 1, span.line, column)))

    def quoted(self, spelling: str, span: Span, words: dict[str, str]) -> None:
        help = 'write it in double quotes: `"' + short(spelling[1:-1].replace('"', "")) + '"`'
        self.complain("E0110", span, help, written=short(spelling), reason="a text stands in double quotes")
        self.tokens.append(Token("STRING", '""', span))

    def slashes(self, spelling: str, span: Span, words: dict[str, str]) -> None:
        help = "a comment starts with `#`; a division is a single `/`"
        self.complain("E0110", span, help, written="//", reason="it has no meaning in a rule")

    def compound(self, spelling: str, span: Span, words: dict[str, str]) -> None:
        name = self.tokens[-1].text if self.tokens and self.tokens[-1].type == "NAME" else "B"
        help = f"write `{short(name)} <- {short(name)} {spelling[:-1]} ...`"
        self.complain("E0110", span, help, written=spelling, reason="an update is written with `<-`")
        self.tokens.append(Token("ASSIGN", "<-", span))

    def comment(self, spelling: str, span: Span, words: dict[str, str]) -> None:
        written = spelling.rstrip()
        self.look_for_hidden(written, span)
        self.comments.append(Comment(written, span))

    def bad_character(self, character: str, span: Span, again: bool) -> None:
        """Report it, unless the one before it was bad too; read it as the sign that it surely stands for."""
        if not again:
            help = SIGNS.get(character, "take it out")
            if not character.isascii() and unicodedata.category(character) != "Cs":
                help = f"this is {_official_name(character)}; {help}"
            self.complain("E0102", span, help, character=visible(character))
        if character in STAND_INS:
            self.tokens.append(Token(STAND_INS[character], table().spellings.get(STAND_INS[character], ".T"), span))

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
