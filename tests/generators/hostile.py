"""Mutated rules through the whole compiler: diagnostics or harmless code, within a second, and nothing else.

`harmless` reads emitted code as a reviewer would who trusts nothing: only these kinds of statements and expressions,
only these modules, and no name that the function doesn't define.
"""

from __future__ import annotations

import ast
import random
import time
from functools import cache

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
_STATEMENTS = (ast.Module, ast.Import, ast.alias, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.Return)
_EXPRESSIONS = (
    *(ast.Expr, ast.Name, ast.Load, ast.Store, ast.Constant, ast.Call, ast.keyword, ast.Attribute, ast.Subscript),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
    *(ast.IfExp, ast.GeneratorExp, ast.comprehension, ast.Tuple, ast.List),
)
_MODULES = {"math", "torch", "jax", "jax.numpy"}
_BUILTINS = {"abs", "float", "len", "max", "min", "sum", "zip"}


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


def harmless(source: str) -> list[str]:
    """What emitted code contains that no rule can ask for; it is parsed, and not run."""
    tree = ast.parse(source)
    compile(tree, "<emitted>", "exec")
    problems: list[str] = []
    modules: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            problems += [f"imports {a.name}" for a in statement.names if a.name not in _MODULES]
            modules |= {alias.asname or alias.name for alias in statement.names}
        elif not isinstance(statement, ast.FunctionDef) and not _is_text(statement):
            problems.append(f"line {statement.lineno} stands outside of all functions")
    for function in tree.body:
        if isinstance(function, ast.FunctionDef):
            problems += _strange_names(function, modules)
            problems += ["an import inside a function" for n in ast.walk(function) if isinstance(n, ast.Import)]
    for node in ast.walk(tree):
        if not isinstance(node, (*_STATEMENTS, *_EXPRESSIONS)):
            problems.append(f"a {type(node).__name__}")
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            problems.append(f"reads {node.attr}")
        elif isinstance(node, ast.Expr) and not _is_text(node):
            problems.append(f"line {node.lineno} has no use")
    return problems


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _strange_names(function: ast.FunctionDef, modules: set[str]) -> list[str]:
    """Names that are no argument, no value of the function, no module and none of a few functions of Python."""
    known = {argument.arg for argument in function.args.args} | modules | _BUILTINS
    known |= {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    read = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    return [f"{function.name} reads {name}" for name in sorted(read - known)]
