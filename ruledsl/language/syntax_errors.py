"""What to say about a token that cannot stand where it stands: what was expected there, and what was probably meant."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import NamedTuple

from ruledsl.diagnostics import Diagnostic, report
from ruledsl.language.grammar import spellings, starts
from ruledsl.language.lexer import Token, short

DEFINITIONS = {"RULE", "OPTIMIZER", "CONSTRAINT"}
COMPARISONS = {"EQ", "NE", "LESSTHAN", "LE", "MORETHAN", "GE"}
OPERATORS = {"PLUS", "MINUS", "STAR", "SLASH", "AT", "POWER", "AND", "OR", "TRANSPOSE"} | COMPARISONS
EXPRESSIONS = {"NUMBER", "NAME", "LPAR", "MINUS", "NOT", "IF", "TRUE", "FALSE", "INF"}
ENDS_OF_EXPRESSIONS = {"NUMBER", "RPAR", "RSQB", "TRANSPOSE", "INF"}
IN_SCHEDULE = {"FIRST", "EACH", "ALTERNATE"}
IN_LOCALITY = {"ALLOW", "FORBID"}


class Brace(NamedTuple):
    """An open `{`, and the first two words of what it belongs to."""

    token: Token
    head: list[Token]


class Situation(NamedTuple):
    """Where the parser stands when it can't take a token."""

    tokens: list[Token]
    position: int
    expected: set[str]  # terminals
    statement: int  # the position of the token that starts the current statement
    brace: Brace | None  # the open brace that is likely to lack its partner
    brackets: list[Token]  # those open in this statement
    lacks_brace: bool  # what starts here belongs into an outer block

    @property
    def found(self) -> Token:
        """The token that can't stand here."""
        return self.tokens[self.position]

    @property
    def previous(self) -> Token | None:
        """The token before it."""
        return self.tokens[self.position - 1] if self.position else None

    @property
    def following(self) -> Token:
        """The token after it."""
        return self.tokens[min(self.position + 1, len(self.tokens) - 1)]

    @property
    def lone_name(self) -> Token | None:
        """The name just before, if it starts the statement: the target of an update, or a misspelt keyword."""
        return self.previous if self.expected == {"ASSIGN"} else None

    @property
    def between_statements(self) -> bool:
        """Whether a new statement may start here."""
        return bool(self.expected & {"LET", "RULE", *IN_SCHEDULE, *IN_LOCALITY}) and not self.brackets


def complaint(situation: Situation) -> Diagnostic:
    """The diagnostic for an unexpected token."""
    found = situation.found
    if found.type == "$END" and situation.brace is not None:
        return missing_brace(situation.brace)
    help = next((advice for advise in ADVICE if (advice := advise(situation)) is not None), None)
    name = situation.lone_name
    if name is not None and found.type not in ("EQUAL", "LESSTHAN", "MINUS"):
        return report("E0101", name.span, help=help, expected="a statement", found=quote(name))
    return report("E0101", found.span, help=help, expected=words(situation.expected), found=quote(found))


def missing_brace(brace: Brace) -> Diagnostic:
    """The file ends, and this brace has no partner."""
    inside = " ".join(short(token.value) for token in brace.head if token.type not in ("LBRACE", "STRING"))
    return report("E0103", brace.token.span, help="this `{` has no `}`", inside=f"`{inside}`")


def quote(token: Token) -> str:
    """A token as a message shows it."""
    return "the end of the file" if token.type == "$END" else f"`{short(token.value)}`"


def words(expected: set[str]) -> str:
    """Terminals in the user's words: "an expression", "`:` or `=`"."""
    left = set(expected)
    named: list[str] = []

    def take(sample: set[str], group: set[str], name: str) -> None:
        if sample <= left:
            left.difference_update(group)
            named.append(name)

    operator = {"PLUS", "STAR"} <= left
    take({"NUMBER", "LPAR"}, EXPRESSIONS, "an expression")
    take({"RULE", "CONSTRAINT"}, DEFINITIONS | {"$END"}, "`rule`, `optimizer` or `constraint`")
    take({"LET", "WHEN"}, set(starts() - {"RBRACE"}) | {"NAME"}, "a statement")
    take({"NAME"}, {"NAME"}, "a name")
    if operator:
        left -= OPERATORS | {"LPAR", "LSQB"}
    if "TILDE" in left:
        left -= {"LSQB", "ARROW"}
    named += sorted(f"`{spellings().get(terminal, '.T')}`" for terminal in left - {"$END", "STRING"})
    take({"STRING"}, {"STRING"}, "a text in double quotes")
    if operator:
        named.append("an operator")
    elif "$END" in left:
        named.append("the end of the file")
    return " or ".join(filter(None, (", ".join(named[:-1]), named[-1])))


# --- advice: one function for each slip, tried in this order -------------------------------------------------


def _missing_brace(s: Situation) -> str | None:
    if s.lacks_brace and s.brace is not None:
        return f"the `{{` in line {s.brace.token.span.line} has no `}}`"
    return None


def _update(s: Situation) -> str | None:
    name = s.lone_name
    if name is None:
        return None
    if s.found.type == "EQUAL":
        target = short(name.value)
        return f"write `{target} <- ...` to update {target}, or `let {target} = ...` to name a value"
    if s.found.type == "LESSTHAN" and s.following.type == "MINUS":
        return "`<-` is one sign: write it without a space"
    return None


def _misspelt(s: Situation) -> str | None:
    """`feedbak`, `Rule`: a keyword was meant, or an operator is missing."""
    name = s.lone_name or (s.found if s.found.is_name and s.between_statements else None)
    if name is None:
        return None
    keywords = [spellings()[terminal] for terminal in starts() | IN_SCHEDULE if terminal != "RBRACE"]
    if s.lone_name is None:
        keywords = [spellings()[terminal] for terminal in s.expected & (starts() | IN_SCHEDULE) - {"RBRACE"}]
    match get_close_matches(short(name.value).lower(), keywords, n=1, cutoff=0.7):
        case [keyword]:
            return f"did you mean `{keyword}`?"
    if s.lone_name is None:
        return None
    before = s.tokens[s.statement - 1]
    if before.span.end_line == name.span.line and (before.is_name or before.type in ENDS_OF_EXPRESSIONS):
        return f"is an operator missing between `{short(before.value)}` and `{short(name.value)}`?"
    return f"to update a weight or state, write `{short(name.value)} <- ...`"


def _arrow_in_expression(s: Situation) -> str | None:
    if s.found.type == "ASSIGN":
        return "`<-` stands in a statement of its own, `B <- ...`; for a comparison with a negative number, write `< -`"
    return None


def _initial(s: Situation) -> str | None:
    if {"TILDE", "EQUAL"} <= s.expected:
        return "say how it starts: `~ normal(0, 1)` for random values, `= zeros()` for others"
    return None


def _type(s: Situation) -> str | None:
    declares = s.tokens[s.statement].type in ("WEIGHT", "FIXED", "FRESH", "STATE")
    if declares and s.expected == {"COLON"}:
        kind, name = (token.value for token in s.tokens[s.statement : s.statement + 2])
        return f"say where its synapses are: `{kind} {short(name)} : post -> pre`, for example"
    return None


def _separator(s: Situation) -> str | None:
    if s.found.type == "COMMA" and s.between_statements:
        return "statements need no separator: leave it out"
    return None


def _chain(s: Situation) -> str | None:
    if s.found.type in COMPARISONS and s.expected & OPERATORS:
        return "comparisons don't chain: write `a < b and b < c`"
    return None


def _inner_if(s: Situation) -> str | None:
    if s.found.type in ("IF", "NOT") and "NUMBER" in s.expected:
        return f"put `{s.found.value} ...` in brackets"
    return None


def _branches(s: Situation) -> str | None:
    if "THEN" in s.expected or "ELSE" in s.expected:
        return "an `if` has two branches: `if condition then a else b`"
    return None


def _python_block(s: Situation) -> str | None:
    if s.found.type == "COLON" and "LBRACE" in s.expected:
        return "the statements of a block stand in braces: `{ ... }`"
    return None


def _unclosed(s: Situation) -> str | None:
    if not s.brackets or _taken_name(s):
        return None
    if s.found.type in starts() or s.found.type == "$END" or s.following.type == "ASSIGN":
        span = s.brackets[-1].span
        return f"the `{s.brackets[-1].value}` in line {span.line}, column {span.column} is not closed"
    return None


def _taken_name(s: Situation) -> bool:
    """Whether a reserved word stands inside a line, where a name may stand, and starts nothing: `f(x / rule)`."""
    inside = s.previous is not None and s.previous.span.end_line == s.found.span.line
    return inside and "NAME" in s.expected and s.found.isalpha() and not s.following.is_name


def _unopened(s: Situation) -> str | None:
    if s.found.type in ("RPAR", "RSQB") and not s.brackets:
        return f"there is no bracket that this `{s.found.value}` could close"
    if s.found.type == "RBRACE" and "RULE" in s.expected:
        return "there is one `}` too many"
    return None


def _wrong_place(s: Situation) -> str | None:
    word = s.lone_name or s.found
    if s.lone_name is None and not s.between_statements:
        return None
    if word.type in IN_LOCALITY:
        return f"`{word.value}` stands in `locality {{ ... }}`"
    if word.value.upper() in IN_SCHEDULE and s.found.type != "EQUAL":
        return f"`{word.value}` stands in `schedule {{ ... }}`"
    if word.type in starts() and "RULE" in s.expected:
        return 'statements stand in a definition: `rule NAME "Title" { ... }`; is there one `}` too many above?'
    return None


def _unfinished(s: Situation) -> str | None:
    """A statement begins where the one before still lacks something."""
    before = s.previous
    if before is None or "NAME" not in s.expected or s.found.type not in {*starts(), "RBRACE", "$END"}:
        return None
    if s.found.span.line == before.span.line and s.found.type != "RBRACE":
        return None
    return f"something has to follow the `{before.value}` in line {before.span.line}, column {before.span.column}"


def _reserved(s: Situation) -> str | None:
    spelling = spellings().get(s.found.type, "")
    if "NAME" in s.expected and spelling.isalpha() and not s.between_statements:
        return f"`{spelling}` is a word of the language; a name must be another one"
    return None


ADVICE: tuple[Callable[[Situation], str | None], ...] = (
    _missing_brace,
    _unclosed,
    _update,
    _arrow_in_expression,
    _unopened,
    _separator,
    _wrong_place,
    _misspelt,
    _initial,
    _type,
    _chain,
    _inner_if,
    _branches,
    _python_block,
    _unfinished,
    _reserved,
)
