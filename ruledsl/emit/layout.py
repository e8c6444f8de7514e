"""How templates lay out Python: assignments, returns, signatures and docstrings, no line longer than it has to be."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from ruledsl.emit.line_breaking import WIDTH, statement

PROSE = 100


def let(target: str, value: str) -> str:
    """Lines that give a value a name."""
    return "\n".join(statement(f"{target} = ", value))


def tuple_of(names: Sequence[str]) -> str:
    """`(a, b)`, as an expression or as targets."""
    return f"({names[0]},)" if len(names) == 1 else f"({', '.join(names)})"


def quoted(names: Iterable[str]) -> str:
    """`("a", "b")`"""
    return tuple_of([f'"{name}"' for name in names])


def targets(names: Sequence[str]) -> str:
    """Targets for a tuple: `a, b`, and `(a,)` for a single one."""
    return tuple_of(names) if len(names) == 1 else ", ".join(names)


def returned(values: Sequence[str]) -> str:
    """Lines that return several values: in one line where they fit."""
    line = f"    return {', '.join(values)}"
    if len(line) <= WIDTH:
        return line
    inner = [part for value in values for part in with_comma(statement("", value, 8))]
    return "\n".join(["    return (", *inner, "    )"])


def with_comma(lines: list[str]) -> list[str]:
    """The lines of an expression, followed by a comma."""
    return [*lines[:-1], f"{lines[-1]},"]


def defined(name: str, parameters: Sequence[str], result: str) -> str:
    """The first lines of a function: in one line, or its parameters in a second one, or each in its own."""
    line = f"def {name}({', '.join(parameters)}) -> {result}:"
    if len(line) <= WIDTH:
        return line
    if len(inside := f"    {', '.join(parameters)}") <= WIDTH:
        return f"def {name}(\n{inside}\n) -> {result}:"
    return "\n".join([f"def {name}(", *(f"    {each}," for each in parameters), f") -> {result}:"])


def documented(text: str, more: bool = False) -> str:
    """A docstring inside of a function or class; its end too, unless there is more to say."""
    lines = textwrap.wrap(text, PROSE)
    end = [] if more else ['    """'] if len(lines) > 1 else None
    first = f'    """{lines[0]}' + ('"""' if end is None else "")
    return "\n".join([first, *(f"    {line}" for line in lines[1:]), *(end or [])])


def wrapped(text: str) -> str:
    """A paragraph of a docstring."""
    return "\n".join(textwrap.wrap(text, PROSE))


def collected(results: Sequence[tuple[str, str]], indent: int = 8, before: str = "") -> str:
    """Lines that return a list: what comes before, and results, as (condition or '', value)."""
    plain = [before] * bool(before) + [text for condition, text in results if not condition]
    if not any(condition for condition, _ in results):
        return "\n".join(statement("return ", f"[{', '.join(plain)}]", indent))
    lines = statement("results = ", f"[{', '.join(plain)}]", indent)
    for condition, text in results:
        if condition:
            lines += [f"{' ' * indent}if {condition}:", *statement("", f"results.append({text})", indent + 4)]
    return "\n".join([*lines, f"{' ' * indent}return results"])


def bracketed(before: str, parts: Sequence[str], after: str, indent: int) -> list[str]:
    """Parts in brackets, on one line where they have room there, otherwise one on each."""
    line = f"{before}{', '.join(parts)}{after}"
    return [line] if len(line) <= WIDTH - indent else [before, *(f"    {part}," for part in parts), after]


LAYOUT = {
    each.__name__: each for each in (collected, defined, documented, let, quoted, returned, targets, tuple_of, wrapped)
}
"""What templates call."""
