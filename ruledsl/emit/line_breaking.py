"""Break long lines of emitted Python where a careful hand would: at commas and operators, the outermost first."""

from __future__ import annotations

import re
from functools import cache

WIDTH = 110
_EMPTY_CALLS = re.compile(r"(\.\w+(\(\))?)+$")
_SUMS = (" + ", " - ")
_OPERATORS = (  # from the loosest to the tightest: what stands between two operators may get brackets of its own
    (" if ", " else "),
    (" or ",),
    (" and ",),
    (" < ", " <= ", " > ", " >= ", " == ", " != "),
    (" | ",),
    (" & ",),
    _SUMS,
    (" * ", " / "),
)
_TARGETS = re.compile(r"(\w+, )*\w+ = ")
_LEADING = re.compile(r"([-+*/&|]|[<>]=?|[=!]=|if|else|or|and) |\w+=(?!=)")
_OPEN, _CLOSE = "([{", ")]}"


def statement(prefix: str, expression: str, indent: int = 4) -> list[str]:
    """`prefix expression` as indented lines, none longer than WIDTH where that can be helped."""
    targets = None if prefix else _TARGETS.match(expression)
    if targets:  # brackets go around the value alone
        prefix, expression = targets[0], expression[targets.end() :]
    line = f"{' ' * indent}{prefix}{expression}"
    if len(line) <= WIDTH:
        return [line]
    broken = _broken(expression, indent, len(prefix))
    return [f"{' ' * indent}{prefix}{broken[0]}", *broken[1:]]


def _broken(expression: str, indent: int, used: int) -> list[str]:
    """The first line without, all others with their indentation."""
    if indent + used + len(expression) <= WIDTH:
        return [expression]
    operator = _LEADING.match(expression)
    if operator:  # the operator stays before the bracket around its operand, as in `-(...)` or `mean=(...)`
        lines = _broken(expression[operator.end() :], indent, used + operator.end())
        return [operator[0] + lines[0], *lines[1:]]
    pad = " " * (indent + 4)
    parts = next((p for p in (_split(expression, o) for o in _OPERATORS) if len(p) > 1), [expression])
    if len(parts) > 1:
        lines = ["("]
        for part in parts:
            inner = _broken(part, indent + 4, 0)
            lines += [f"{pad}{inner[0]}", *inner[1:]]
        return [*lines, f"{' ' * indent})"]
    tail = _EMPTY_CALLS.search(expression)
    if tail:  # `(...).sum()`: there is nothing to break inside the last brackets
        lines = _broken(expression[: tail.start()], indent, used + len(tail[0]))
        return [*lines[:-1], lines[-1] + tail[0]]
    start = _last_call(expression)
    if start is None:
        return [expression]
    head, inside = expression[: start + 1], expression[start + 1 : -1]
    arguments = _split(inside, (" for ",) if _comprehension(inside) else (", ",))
    called = start > 0 and (expression[start - 1].isalnum() or expression[start - 1] in "_])")
    several = not _comprehension(inside) and (len(arguments) > 1 or inside.endswith(","))
    if not called and several:  # a list or a tuple
        lines = [head]
        for argument in arguments:
            inner = _broken(argument.removesuffix(","), indent + 4, 1)
            lines += [f"{pad}{inner[0]}", *inner[1:]]
            lines[-1] += ","
        return [*lines, f"{' ' * indent}{expression[-1]}"]
    if not called:
        long = indent + 4 + len(inside) > WIDTH and any(len(_split(inside, each)) > 1 for each in _OPERATORS)
        if start == 0 and (long or len(_split(inside, _SUMS)) > 1):
            inner = _broken(inside, indent, WIDTH)  # which puts brackets around it
            return [head[:-1] + inner[0], *inner[1:]]
        inner = _broken(inside, indent + 4, 0)
        return [head, f"{pad}{inner[0]}", *inner[1:], f"{' ' * indent}{expression[-1]}"]
    lines = [head]
    for argument in arguments:
        inner = _broken(argument, indent + 4, 1)
        lines += [f"{pad}{inner[0]}", *inner[1:]]
        lines[-1] += "" if _comprehension(inside) or expression[start] == "[" else ","  # `a[0,]` is another thing
    return [*lines, f"{' ' * indent}{expression[-1]}"]


def _split(text: str, separators: tuple[str, ...]) -> list[str]:
    """At separators outside all brackets and strings; operators stay in front of what follows, commas go."""
    parts, depth, start = [], 0, 0
    for found in _scanner(separators).finditer(text):
        token = found[0]
        if token in _OPEN:
            depth += 1
        elif token in _CLOSE:
            depth -= 1
        elif depth == 0 and token[0] != '"':
            parts.append(text[start : found.start()])
            start = found.end() if token == ", " else found.start() + 1
    return [*parts, text[start:]]


@cache
def _scanner(separators: tuple[str, ...]) -> re.Pattern[str]:
    """Finds texts, brackets and separators."""
    return re.compile("|".join(['"[^"]*"?', r"[(\[{]", r"[)\]}]", *map(re.escape, separators)]))


def _comprehension(text: str) -> bool:
    return len(_split(text, (" for ",))) > 1


def _last_call(text: str) -> int | None:
    """Where the bracket opens that the last character closes."""
    if not text or text[-1] not in _CLOSE:
        return None
    depth = 0
    for position in range(len(text) - 1, -1, -1):
        depth += (text[position] in _CLOSE) - (text[position] in _OPEN)
        if depth == 0:
            return position
    return None
