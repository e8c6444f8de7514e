"""What emitted code may consist of, read as a reviewer would who trusts nothing: what isn't listed here is refused.

The functions of a rule's equations are mathematics: statements that assign and return, names that are arguments or
assigned, and the mathematics of the framework. What stands around them is the backend's frame, and may besides call
what the module defines and imports:

- with PyTorch, classes: methods and values, which choose and repeat
- with JAX, tuples with named fields, and functions: those with a derivative of their own, those whose signature has
  types, and the maker of an optax transformation. Their only choice is whether something is None.

Nobody assigns to what a module or an argument holds, apart from methods of classes.
"""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterator
from dataclasses import dataclass, field

_MATHEMATICS = (
    *(ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.Return, ast.Expr, ast.Name, ast.Load, ast.Store),
    *(ast.Constant, ast.Call, ast.keyword, ast.Attribute, ast.Subscript, ast.BinOp, ast.UnaryOp, ast.BoolOp),
    *(ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.IfExp, ast.Tuple, ast.List),
    *(ast.GeneratorExp, ast.comprehension),
)
_IN_FRAMES = (*_MATHEMATICS, ast.If, ast.Starred)
_IN_MAKERS = (*_IN_FRAMES, ast.Lambda, ast.Raise)
_IN_CLASSES = (
    *(*_IN_FRAMES, ast.ClassDef, ast.For, ast.With, ast.withitem, ast.Slice, ast.Dict),
    *(ast.JoinedStr, ast.FormattedValue, ast.ListComp, ast.Lambda),
)
_FIELDS = (ast.ClassDef, ast.Expr, ast.Constant, ast.AnnAssign, ast.Name, ast.Load, ast.Store)
_TYPES = (ast.Name, ast.Load, ast.Attribute, ast.Subscript, ast.Tuple, ast.BinOp, ast.BitOr, ast.Constant)

_BUILTINS = {"abs", "float", "len", "max", "min", "sum", "zip"}
_DRAWS = {"normal", "orthogonal", "signs", "uniform"}
_OUR_MATHEMATICS = {"tensordot", "joint", "joint_norm", "joint_size", "joint_std", *_DRAWS, *(f"{d}_" for d in _DRAWS)}
_BUILTINS_IN_FRAMES = _BUILTINS | {"ValueError", "bool", "callable", "enumerate", "int", "tuple"}
_BUILTINS_IN_CLASSES = _BUILTINS | {"enumerate", "getattr", "staticmethod", "super", "tuple"}

_IMPORTED = {
    "__future__": {"annotations"},
    "collections.abc": {"Sequence"},
    "functools": {"partial"},
    "jax": {"Array"},
    "jax.typing": {"ArrayLike"},
    "math": {"prod"},
    "torch": {"nn"},
    "torch.autograd.function": {"once_differentiable"},
    "typing": {"Any", "NamedTuple"},
}
_OURS = ("ruledsl.", "ruledsl_torch.", "ruledsl_jax.")
_READ = {
    "math": r"exp|log|sqrt|tanh|prod|inf|nan",
    "torch": r"abs|add|clamp|exp|log|logical_not|maximum|minimum|relu|sign|sqrt|square|tanh|where|tensordot|tensor|"
    r"float64|(empty|full|ones|zeros)(_like)?|linalg\.vector_norm|nn\.init\.orthogonal_|"
    r"autograd\.Function|enable_grad|is_grad_enabled|optim\.(Adam|SGD)|_foreach_\w+",
    "torch.nn": r"Conv2d|Linear",
    "jax": r"nn\.relu|nn\.initializers\.orthogonal|random\.(normal|uniform|bernoulli|split|fold_in)|tree\.map|"
    r"custom_vjp|Array",
    "jax.numpy": r"abs|exp|log|logical_not|maximum|minimum|sign|sqrt|square|tanh|where|tensordot|sum|mean|std|"
    r"asarray|(full|ones|zeros)(_like)?|linalg\.norm|result_type|int32",
    "optax": r"GradientTransformation(ExtraArgs)?|Params|safe_increment",
}
"""The modules that may be imported, and what may be read of each."""
_HIDDEN = {ast.ClassDef: re.compile(r"__init__|_foreach_\w+"), ast.FunctionDef: re.compile(r"_replace")}
_DECORATOR = re.compile(r"partial\(jax\.custom_vjp, nondiff_argnums=\([\d, ]+\)\)")
_METHODS = {"staticmethod", "once_differentiable"}


def harmless(source: str) -> list[str]:
    """What emitted code contains that no rule can ask for; it is parsed, and not run."""
    tree = ast.parse(source)
    compile(tree, "<emitted>", "exec")
    module = _Module(tree)
    problems = [problem for statement in tree.body for problem in module.judged(statement)]
    return problems + module.strange_names(symtable.symtable(source, "<emitted>", "exec"))


@dataclass
class _Module:
    """The statements of a module, and what they name.

    modules     what they are called, and what they are
    imported    what comes from a module by its name
    derived     the functions with a derivative of their own; `frames`: all that belong to the frame
    makers      of optax transformations
    """

    tree: ast.Module
    modules: dict[str, str] = field(default_factory=dict)
    imported: set[str] = field(default_factory=set)
    derived: set[str] = field(default_factory=set)
    frames: set[str] = field(default_factory=set)
    makers: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for part in self.tree.body:
            if isinstance(part, ast.Import):
                self.modules |= {alias.asname or alias.name: alias.name for alias in part.names}
            elif isinstance(part, ast.ImportFrom):
                names = {alias.asname or alias.name: f"{part.module}.{alias.name}" for alias in part.names}
                self.modules |= {name: path for name, path in names.items() if path in _READ}
                self.imported |= names.keys() - self.modules.keys()
        functions = [part for part in self.tree.body if isinstance(part, ast.FunctionDef)]
        self.defined = {part.name for part in self.tree.body if isinstance(part, ast.FunctionDef | ast.ClassDef)}
        self.derived = {part.name for part in functions if part.decorator_list}
        self.frames = {f"{name}{end}" for name in self.derived for end in ("", "_fwd", "_bwd")}
        self.frames |= {part.name for part in functions if part.returns}
        self.makers = {part.name for part in functions if _makes_a_transformation(part)}

    def judged(self, part: ast.stmt) -> Iterator[str]:
        """What is wrong with a statement of the module, names aside."""
        if isinstance(part, ast.Import):
            yield from (f"imports {alias.name}" for alias in part.names if alias.name not in _READ)
            return
        if isinstance(part, ast.ImportFrom):
            module, ours = part.module or "", (part.module or "").startswith(_OURS) and not part.level
            known = _IMPORTED.get(module, set())
            yield from (f"imports {module}.{a.name}" for a in part.names if not ours and a.name not in known)
            return
        if isinstance(part, ast.FunctionDef):
            allowed = self._function(part)
            yield from self._strange_function(part)
        elif isinstance(part, ast.ClassDef):
            fields = [ast.unparse(base) for base in part.bases] == ["NamedTuple"]
            allowed = _FIELDS if fields else _IN_CLASSES
            yield from self._strange_fields(part) if fields else self._strange_class(part)
        else:
            derived = [f"{name}.defvjp({name}_fwd, {name}_bwd)" for name in self.derived]
            if not _is_text(part) and ast.unparse(part) not in derived:
                yield f"line {part.lineno} stands outside of all functions"
            return
        types = {id(node): node for type_ in _types(part) for node in ast.walk(type_)}
        yield from (f"a {type(node).__name__} as a type" for node in types.values() if not isinstance(node, _TYPES))
        nodes = [node for node in ast.walk(part) if id(node) not in types]
        yield from (f"a {type(node).__name__}" for node in nodes if not isinstance(node, allowed))
        yield from self._strange_reads(part)

    def _function(self, part: ast.FunctionDef) -> tuple[type[ast.AST], ...]:
        """What a function may consist of."""
        if part.name in self.makers:
            return _IN_MAKERS
        return _IN_FRAMES if part.name in self.frames else _MATHEMATICS

    def _strange_function(self, part: ast.FunctionDef) -> Iterator[str]:
        """Decorators, first values of arguments, choices, and statements that no function needs."""
        if any(not _DECORATOR.fullmatch(ast.unparse(decorator)) for decorator in part.decorator_list):
            yield f"{part.name} is decorated"
        if part.name not in self.frames and any(True for _ in _types(part)):
            yield f"{part.name} has types"
        mapped: set[int] = set()
        for node in ast.walk(part):
            if isinstance(node, ast.FunctionDef) and node is not part:
                if part.name not in self.frames | self.makers or node.decorator_list:
                    yield f"{part.name} defines {node.name}"
            elif isinstance(node, ast.Expr) and not _is_text(node):
                yield f"line {node.lineno} has no use"
            elif isinstance(node, ast.If) and not re.fullmatch(r"\w+ is None", ast.unparse(node.test)):
                yield f"line {node.lineno} chooses"
            elif isinstance(node, ast.Raise) and not _is_complaint(node):
                yield f"line {node.lineno} raises"
            elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
                yield f"line {node.lineno} changes what something holds"
            elif isinstance(node, ast.Call):
                mapped |= {id(argument) for argument in node.args[:1] if _path(node.func) == ["jax", "tree", "map"]}
            elif isinstance(node, ast.Lambda) and id(node) not in mapped:
                yield f"line {node.lineno} has a lambda"
        yield from _strange_defaults(part)

    def _strange_class(self, part: ast.ClassDef) -> Iterator[str]:
        """A class that is more than methods and values."""
        if part.decorator_list or part.keywords:
            yield f"{part.name} is decorated"
        for node in part.body:
            if not isinstance(node, ast.FunctionDef | ast.Assign) and not _is_text(node):
                yield f"line {node.lineno} stands outside of all methods"
        for node in ast.walk(part):
            if isinstance(node, ast.FunctionDef):
                yield from (f"{node.name} is decorated" for d in node.decorator_list if ast.unparse(d) not in _METHODS)
            elif isinstance(node, ast.Lambda):
                called = node.body.func if isinstance(node.body, ast.Call) else None
                if not (isinstance(called, ast.Name) and called.id.startswith("complete_")):
                    yield f"line {node.lineno} has a lambda"
        yield from _strange_defaults(part)

    def _strange_fields(self, part: ast.ClassDef) -> Iterator[str]:
        """A tuple with named fields that has more than those."""
        if part.decorator_list or part.keywords:
            yield f"{part.name} is decorated"
        for node in part.body:
            if not _is_text(node) and not (isinstance(node, ast.AnnAssign) and node.simple and node.value is None):
                yield f"line {node.lineno} is no field"

    def _strange_reads(self, part: ast.stmt) -> Iterator[str]:
        """What a part reads of a module beside what is listed, and attributes that are hidden."""
        free, inner = _HIDDEN[type(part)], set()
        if isinstance(part, ast.FunctionDef) and part.name not in self.frames:
            free = re.compile("(?!)")
        for node in ast.walk(part):
            path = _path(node) if id(node) not in inner else []
            if path:
                inner |= {id(n) for n in ast.walk(node)}
                module = self.modules.get(path[0], "")
                if module and not re.fullmatch(_READ.get(module, ""), ".".join(path[1:])):
                    yield f"reads {'.'.join(path)}"
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not free.fullmatch(node.attr):
                yield f"reads {node.attr}"

    def strange_names(self, table: symtable.SymbolTable) -> list[str]:
        """Names that are neither assigned where they are read, nor among those that a part may read."""
        own = self.modules.keys() | self.imported | self.defined
        problems = [f"the module reads {name}" for name in _outside(table) if name not in own]
        for part in _scopes(table):
            if isinstance(part, symtable.Class):
                known = own | _BUILTINS_IN_CLASSES
            elif part.get_name() in self.frames | self.makers:
                known = own | _BUILTINS_IN_FRAMES
            else:
                known = self.modules.keys() | _BUILTINS | (self.imported & _OUR_MATHEMATICS)
            problems += [f"{part.get_name()} reads {name}" for name in sorted(_outside_of(part) - known)]
        typed = {n.id for type_ in _types(self.tree) for n in ast.walk(type_) if isinstance(n, ast.Name)}
        return problems + [f"{name} is no type" for name in sorted(typed - own - _BUILTINS_IN_FRAMES)]


def _outside(table: symtable.SymbolTable) -> set[str]:
    """The names that a scope reads and does not assign."""
    symbols = [symbol for symbol in table.get_symbols() if symbol.is_referenced()]
    return {symbol.get_name() for symbol in symbols if symbol.is_global() or table.get_type() == "module"}


def _outside_of(table: symtable.SymbolTable) -> set[str]:
    """The same for a scope and all scopes in it."""
    return _outside(table).union(*map(_outside_of, _scopes(table)))


def _scopes(table: symtable.SymbolTable) -> list[symtable.SymbolTable]:
    """The functions and classes of a scope; newer Pythons have scopes for types as well."""
    return [inner for inner in table.get_children() if inner.get_type() in ("function", "class")]


def _types(tree: ast.AST) -> Iterator[ast.expr]:
    """The types that arguments, results and fields are said to have."""
    for node in ast.walk(tree):
        found = node.returns if isinstance(node, ast.FunctionDef) else getattr(node, "annotation", None)
        if found is not None:
            yield found


def _path(node: ast.AST) -> list[str]:
    """`a.b.c` as [a, b, c]; nothing for what doesn't begin with a name."""
    if isinstance(node, ast.Attribute):
        inside = _path(node.value)
        return [*inside, node.attr] if inside else []
    return [node.id] if isinstance(node, ast.Name) else []


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_complaint(node: ast.Raise) -> bool:
    """`raise ValueError("text")`"""
    call = node.exc
    if not isinstance(call, ast.Call) or node.cause or call.keywords:
        return False
    return ast.unparse(call.func) == "ValueError" and [type(a) for a in call.args] == [ast.Constant]


def _makes_a_transformation(part: ast.FunctionDef) -> bool:
    """Whether a function defines init and update, and returns an optax transformation of the two."""
    inside = [node.name for node in part.body if isinstance(node, ast.FunctionDef)]
    last = ast.unparse(part.body[-1])
    return inside == ["init", "update"] and bool(
        re.fullmatch(r"return optax\.GradientTransformation(ExtraArgs)?\(init, update\)", last)
    )


def _strange_defaults(part: ast.AST) -> Iterator[str]:
    """First values of arguments that are no numbers or texts."""
    for arguments in (node for node in ast.walk(part) if isinstance(node, ast.arguments)):
        for value in (*arguments.defaults, *arguments.kw_defaults):
            inner = value.operand if isinstance(value, ast.UnaryOp) else value
            named = value is not None and re.fullmatch(r"-?math\.(inf|nan)|\(\)", ast.unparse(value))
            if value is not None and not named and not isinstance(inner, ast.Constant):
                yield f"line {value.lineno} computes the first value of an argument"
