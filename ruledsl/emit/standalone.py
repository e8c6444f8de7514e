"""One file that needs the framework alone: what a module imports from this project is pasted into it.

Pasted is what the module reaches: of the project's files the definitions that are read, and of a class the members
whose names occur. The text is taken as it stands, so that what is pasted is what is imported.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, pairwise, zip_longest
from pathlib import Path

from ruledsl.emit.imports import import_lines, is_own

IMPLICIT = frozenset({"forward", "backward", "setup_context", "extra_repr"})  # members that a framework calls by name
OFFERED = frozenset(  # members that a user's loop calls
    {"items", "load_state", "load_state_dict", "observe", "sees_batch", "state", "state_dict", "step", "zero_grad"}
)
Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


def paste_imports(source: str) -> str:
    """The text of a module, with everything that it imports from this project in the place of the imports."""
    tree = ast.parse(source)
    own = [node for node in tree.body if isinstance(node, ast.ImportFrom) and is_own(node.module)]
    wanted = [(node.module or "", alias.name) for node in own for alias in node.names]
    lines = source.splitlines(keepends=True)
    for node in own:
        lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    pasting = _Pasting(attributes=set(_attributes(tree)) | IMPLICIT | OFFERED)
    for module, name in wanted:
        pasting.reach(module, name)
    pasted = pasting.text()
    after_docstring = tree.body[0].end_lineno or 1
    head, body = "".join(lines[:after_docstring]), "".join(lines[after_docstring:])
    plain = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) and node not in own]
    imports = [ast.unparse(node) for node in plain if getattr(node, "module", None) != "__future__"]
    body = _without_imports(body)
    merged = import_lines({*imports, *pasting.imports})
    gap = "\n\n\n" if pasted.startswith(("class ", "def ", "@")) else "\n\n"
    return f"{head}\nfrom __future__ import annotations\n\n{merged}{gap}{pasted}\n\n\n{body.strip()}\n"


@cache
def _module(name: str) -> tuple[str, dict[str, Definition], dict[str, tuple[str, str]], dict[str, str]]:
    """The text of a file of this project, its definitions by name, and what its imports bind: names of the project,
    and import statements of others."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, name
    text = Path(spec.origin).read_text(encoding="utf-8")
    definitions: dict[str, Definition] = {}
    ours: dict[str, tuple[str, str]] = {}
    others: dict[str, str] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign):
            definitions |= {name.id: node for target in node.targets for name in _stored(target)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            definitions[node.target.id] = node
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                bound = alias.asname or alias.name
                if is_own(node.module):
                    ours[bound] = (node.module or "", alias.name)
                else:
                    renamed = f" as {alias.asname}" if alias.asname else ""
                    others[bound] = f"from {node.module} import {alias.name}{renamed}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                renamed = f" as {alias.asname}" if alias.asname else ""
                others[alias.asname or alias.name.partition(".")[0]] = f"import {alias.name}{renamed}"
    return text, definitions, ours, others


@dataclass
class _Pasting:
    """What is pasted: definitions by (file, name), in the order in which they were reached."""

    attributes: set[str]
    reached: dict[tuple[str, str], Definition] = field(default_factory=dict)
    imports: set[str] = field(default_factory=set)

    def reach(self, module: str, name: str) -> None:
        """A name is read: paste what defines it, and what that reads."""
        _, definitions, ours, others = _module(module)
        if name in ours:
            self.reach(*ours[name])
        elif name in others:
            self.imports.add(others[name])
        elif name in definitions and (module, name) not in self.reached:
            clash = [other for other, same in self.reached if same == name]
            assert not clash, f"{name} is defined in {clash[0]} and in {module}"
            self.reached[module, name] = definitions[name]

    def text(self) -> str:
        """Everything that is reached, file by file, in the order of the definitions there."""
        before = -1
        while before != (before := len(self.attributes) + len(self.reached) + len(self.imports)):
            for (module, _), definition in list(self.reached.items()):
                for part in self.parts(definition):
                    self.attributes |= set(_attributes(part))
                    for read in _names(part):
                        self.reach(module, read)
        files = dict.fromkeys(module for module, _ in self.reached)
        ordered = sorted(files, key=self.depth)
        texts = [
            _shown(_module(module)[0], definition, self.kept(definition))
            for module in ordered
            for name, definition in _module(module)[1].items()
            if (module, name) in self.reached
        ]
        texts = list(dict.fromkeys(texts))
        gaps = ["\n" if _is_line(one) and _is_line(other) else "\n\n\n" for one, other in pairwise(texts)]
        return re.sub(r"\n{4,}", "\n\n\n", "".join(chain(*zip_longest(texts, gaps, fillvalue=""))))

    def depth(self, module: str) -> int:
        """How many files of the project lie below one: what is read when a class is made has to come first."""
        seen: set[str] = set()
        stack = [module]
        while stack:
            for other, _ in _module(stack.pop())[2].values():
                if other not in seen and importlib.util.find_spec(other) is not None:
                    seen.add(other)
                    stack.append(other)
        return len(seen)

    def kept(self, definition: Definition) -> list[ast.stmt] | None:
        """The members of a class that are pasted; None for all of it."""
        if not isinstance(definition, ast.ClassDef):
            return None
        data = any(ast.unparse(base).endswith(("NamedTuple", "Protocol")) for base in definition.bases)
        data = data or any("dataclass" in ast.unparse(each) for each in definition.decorator_list)
        kept = [node for node in definition.body[_documented(definition) :] if self.keeps(node, data)]
        fields = [node for node in kept if isinstance(node, ast.AnnAssign)]
        while data and fields and fields[-1].value is not None and not self.keeps(fields[-1], False):
            kept.remove(fields.pop())  # of the last fields, those with a default that nobody reads or gives
        return kept

    def keeps(self, node: ast.stmt, data: bool) -> bool:
        """Whether a member is pasted: the fields of data, and what somebody may call."""
        if isinstance(node, ast.FunctionDef):
            return node.name in self.attributes or (node.name.startswith("__") and node.name.endswith("__"))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            return data or node.target.id in self.attributes
        if isinstance(node, ast.Assign):
            return any(isinstance(target, ast.Name) and target.id in self.attributes for target in node.targets)
        return not isinstance(node, ast.Expr)

    def parts(self, definition: Definition) -> Iterator[ast.AST]:
        """What of a definition is pasted."""
        kept = self.kept(definition)
        if kept is None:
            yield definition
        elif isinstance(definition, ast.ClassDef):
            yield from (*definition.bases, *definition.decorator_list, *kept)


def _shown(text: str, definition: Definition, kept: list[ast.stmt] | None) -> str:
    """The text of a definition, with the members that are kept."""
    lines = text.splitlines()
    if kept is None or not isinstance(definition, ast.ClassDef):
        start = min([definition.lineno, *(d.lineno for d in getattr(definition, "decorator_list", ()))])
        return "\n".join(lines[start - 1 : definition.end_lineno])
    start = min([definition.lineno, *(each.lineno for each in definition.decorator_list)])
    first = definition.body[0]
    head = lines[start - 1 : first.lineno - 1]
    shown = ["\n".join(head)]
    if _documented(definition):
        summary = (ast.get_docstring(definition) or "").partition("\n\n")[0].replace("\n", "\n    ")
        shown.append(f'    """{summary}"""')
    if not kept and not _documented(definition):
        shown.append("    pass")
    blocks: list[str] = []
    was_function = True
    for node in kept:
        begin = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
        block = "\n".join(lines[begin - 1 : node.end_lineno])
        is_function = isinstance(node, ast.FunctionDef)
        blocks.append(("\n" if is_function or was_function else "") + block)
        was_function = is_function
    return "\n".join([*shown, *blocks])


def _is_line(text: str) -> bool:
    """Whether a definition is a constant in one line."""
    return "\n" not in text and not text.startswith(("class ", "def "))


def _documented(node: ast.ClassDef) -> int:
    return int(ast.get_docstring(node, clean=False) is not None)


def _attributes(tree: ast.AST) -> Iterator[str]:
    """The names of attributes that a piece of code reads or calls, and those that it passes by name or as text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id


def _stored(target: ast.expr) -> Iterator[ast.Name]:
    """The names that an assignment binds: `a`, or those of `a, b`."""
    parts = target.elts if isinstance(target, ast.Tuple) else [target]
    yield from (part for part in parts if isinstance(part, ast.Name))


def _without_imports(body: str) -> str:
    nodes = [node for node in ast.parse(body).body if isinstance(node, ast.Import | ast.ImportFrom)]
    lines = body.splitlines(keepends=True)
    for node in nodes:
        for line in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[line] = ""
    return "".join(lines)
