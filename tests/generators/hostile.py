"""Mutated rules through the whole compiler: diagnostics or harmless code, within a second, and nothing else."""

from __future__ import annotations

import random
import time
from functools import cache

from generators.harmless import harmless
from ruledsl import library
from ruledsl.checked import Checked
from ruledsl.diagnostics import RuleError, render
from ruledsl.rule import Rule
from ruledsl.source import Source

SECONDS = 1.0
BACKENDS = ("torch", "jax")
INJECTIONS = (
    *(
        '"""',
        "'''",
        '\\"',
        '"\\n',
        "\\",
        "\n",
        "__import__",
        "os.system('x')",
        "exec",
        "eval(1)",
        "lambda: 0",
        "import os",
    ),
    *(
        "{{ 1 }}",
        "{% raw %}",
        "#}",
        "\u202e",
        "\x00",
        "é",
        "x" * 300,
        "9" * 80,
        "1e999",
        "0x10",
        "1_0",
        "class",
        "def f():",
    ),
    *("self.__class__", "open", "globals()", "W.__class__", ".T.T.T", "delta[k]", "D[j]", "sum(k, ", "scalar", "inf"),
    *(
        "-",
        "**",
        "@",
        "<-",
        "->",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        ",",
        "=",
        "if",
        "then",
        "else",
        "true",
        "out",
        "pre",
        "post",
    ),
    *(
        "minimize",
        "over",
        "by",
        "phase",
        "when",
        "extends",
        "use",
        "fresh",
        "state",
        "weight",
        "fixed",
        "static",
        "param",
    ),
    "let",
)


@cache
def texts() -> tuple[str, ...]:
    """The files of the library."""
    return tuple(library.read(library.folder() / f"{name}{library.SUFFIX}").content for name in library.names())


def mutated(seed: int) -> str:
    """A file of the library after some accidents, and some that are none."""
    rng = random.Random(seed)
    content = rng.choice(texts())
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        start = rng.randrange(len(content) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            content = content[:start] + rng.choice(INJECTIONS) + content[start:]
        elif kind == 1:
            content = content[:start] + content[start + rng.randrange(1, 20) :]
        elif kind == 2:
            other = rng.choice(texts())
            first = rng.randrange(len(other))
            content = content[:start] + other[first : first + rng.randrange(1, 80)] + content[start:]
        else:
            content = _words_changed(content, rng, kind)
    return content


def _words_changed(content: str, rng: random.Random, kind: int) -> str:
    """Words replaced, swapped or doubled: what is left is a rule more often."""
    words = content.split(" ")
    one, other = rng.randrange(len(words)), rng.randrange(len(words))
    if kind == 3:
        words[one] = words[other]
    elif kind == 4:
        words[one], words[other] = words[other], words[one]
    else:
        words[one] = rng.choice((*INJECTIONS, rng.choice(rng.choice(texts()).split() or ["W"])))
    return " ".join(words)


def judged(seed: int) -> list[str]:
    """What is wrong with how the compiler takes the mutated file of a seed: too slow, or code of the author's in it."""
    text = mutated(seed)
    start = time.process_time()
    checked, syntax = library.check_all(Source(text, "<mutated>"))
    for diagnostic in [*syntax, *(d for c in checked for d in c.diagnostics)]:
        render(diagnostic)
    problems = [f"seed {seed}: {problem}" for c in checked if not c.errors for problem in _compiled(c)]
    spent = time.process_time() - start
    return problems if spent <= SECONDS else [*problems, f"seed {seed}: took {spent:.1f} s"]


def _compiled(checked: Checked) -> list[str]:
    if checked.equations is None:
        return []
    rule, problems = Rule(checked), []
    for backend in BACKENDS:
        try:
            source = rule.compile(backend).source
        except RuleError as error:  # what a backend cannot express
            if any(not d.code.startswith("E06") for d in error.diagnostics):
                problems.append(f"{backend}: {error.diagnostics[0].code}")
            continue
        problems += [f"{backend}: {problem}" for problem in harmless(source)]
    return problems
