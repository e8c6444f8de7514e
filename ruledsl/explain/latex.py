"""A node as LaTeX mathematics (amsmath), and any text of a rule as LaTeX text."""

from __future__ import annotations

import re

from ruledsl.ir.nodes import Node
from ruledsl.ir.printer import number

GREEK = frozenset(
    (
        *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu"),
        *("xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
        *("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"),
    )
)
_INFIX = {
    "or": (r"\lor", 1),
    "and": (r"\land", 2),
    "eq": ("=", 4),
    "ne": (r"\neq", 4),
    "lt": ("<", 4),
    "le": (r"\leq", 4),
    "gt": (">", 4),
    "ge": (r"\geq", 4),
    "add": ("+", 5),
    "sub": ("-", 5),
}
_PRODUCT, _POWER, _ATOM = 6, 8, 9
_MEANS = {None: r"\sum", "batch": r"\tfrac{1}{N}\sum", "all": r"\tfrac{1}{NP}\sum"}
_BRACKETS = {
    "abs": (r"\lvert ", r"\rvert"),
    "norm": (r"\lVert ", r"\rVert"),
    "sq": (r"\lVert ", r"\rVert^{2}"),
    "dot": (r"\langle ", r"\rangle"),
    "sqrt": (r"\sqrt{", "}"),
}
LEGEND = (
    r"$\sum$ of an outer product or of an activity runs over the $N$ examples of the batch and, in a convolution, over "
    r"the $P$ positions; $\odot$ is taken element by element."
)

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "-": "{-}",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "’": "'",
}


def text(words: str) -> str:
    """Any text, as LaTeX text that shows just that. A character that pdfLaTeX lacks is shown as its number."""
    return "".join(_character(c) for c in words)


def _character(c: str) -> str:
    if c in _SPECIAL:
        return _SPECIAL[c]
    if " " <= c <= "~" or ("\xc0" <= c <= "\u017e" and c.isalpha() and c not in "ĦħĸŉŦŧſ"):
        return c
    return " " if c.isspace() else rf"[U+{ord(c):04X}]"


def name(word: str, index: str | None = None) -> str:
    """A name of the rule: `eta_B` as eta with a subscript B, `m1` as m with a subscript 1."""
    head, *rest = word.split("_")
    match = re.fullmatch(r"([A-Za-z]+?)(\d+)", head)
    if match and (len(match[1]) == 1 or match[1] in GREEK):
        head, rest = match[1], [match[2], *rest]
    if head in GREEK:
        shown = rf"\{head}"
    elif len(head) == 1:
        shown = head
    else:
        return rf"\mathit{{{text(word)}}}" + (f"_{{{index}}}" if index else "")
    below = [part if len(part) == 1 or part.isdigit() else rf"\mathrm{{{text(part)}}}" for part in rest]
    below += [index] if index else []
    return f"{shown}_{{{','.join(below)}}}" if below else shown


def latex(node: Node, *, names: bool = True) -> str:
    """The node as mathematics; with `names`, a value that the author named by `let` by its name."""
    memo: dict[int, tuple[str, int]] = {}

    def part(of: Node, least: int) -> str:
        if id(of) not in memo:
            memo[id(of)] = (name(of.name), _ATOM) if names and of.name else _latex(of, part)
        shown, binding = memo[id(of)]
        return shown if binding >= least else rf"\left({shown}\right)"

    return part(node, 0)


def _latex(node: Node, part) -> tuple[str, int]:  # type: ignore[no-untyped-def]
    op, args = node.op, node.args
    if op == "const":
        return _constant(node)
    if op in ("signal", "tensor"):
        return name(str(node.attrs[0]), str(node.attrs[1]) if node.attrs[1] else None), _ATOM
    if op == "scalar":
        return name(str(node.attrs[0])), _ATOM
    if op in _INFIX:
        symbol, binding = _INFIX[op]
        return f"{part(args[0], binding)} {symbol} {part(args[1], binding + 1)}", binding
    if op == "mul":
        scalar = any(arg.type.kind == "scalar" for arg in args)
        sign = (
            r"\cdot"
            if all(arg.op == "const" for arg in args) or args[1].op == "const"
            else r"\,"
            if scalar
            else r"\odot"
        )
        return f"{part(args[0], _PRODUCT)} {sign} {part(args[1], _PRODUCT + 1)}", _PRODUCT
    if op == "apply":
        return rf"{part(args[0], _PRODUCT + 1)}\, {part(args[1], _PRODUCT + 1)}", _PRODUCT
    if op == "outer":
        return rf"{_MEANS[node.attrs[0]]} {part(args[0], _PRODUCT + 1)}\, {part(args[1], _ATOM)}^{{\top}}", _PRODUCT  # type: ignore[index]
    if op == "div":
        return rf"\frac{{{part(args[0], 0)}}}{{{part(args[1], 0)}}}", _PRODUCT + 1
    if op == "pow":
        return f"{part(args[0], _ATOM)}^{{{part(args[1], 0)}}}", _POWER
    if op == "transpose":
        return rf"{part(args[0], _ATOM)}^{{\top}}", _POWER
    if op == "neg":
        return f"-{part(args[0], _PRODUCT)}", _PRODUCT - 1
    if op == "not":
        return rf"\lnot {part(args[0], _POWER)}", 3
    if op in _BRACKETS:
        left, right = _BRACKETS[op]
        return f"{left}{', '.join(part(arg, 0) for arg in args)}{right}", _ATOM if op != "sq" else _POWER
    if op == "where":
        rows = rf"{part(args[1], 0)} & \text{{if }} {part(args[0], 0)} \\ {part(args[2], 0)} & \text{{otherwise}}"
        return rf"\begin{{cases}} {rows} \end{{cases}}", _PRODUCT
    if op == "full_like":
        return part(args[1], _PRODUCT + 1), _PRODUCT
    if op == "total":
        return rf"\sum {part(args[0], _PRODUCT + 1)}", _PRODUCT
    if op == "sum_k":
        return rf"\sum_{{{node.attrs[0]}}} {part(args[0], _PRODUCT)}", _PRODUCT
    inside = ", ".join(part(arg, 0) for arg in args)
    return rf"{_function(node)}\left({inside}\right)", _ATOM


def _function(node: Node) -> str:
    if node.op in ("phi", "dphi"):
        return r"\varphi" if node.op == "phi" else r"\varphi'"
    if node.op == "random":
        return rf"\operatorname{{{node.attrs[0]}}}"
    axis = next((str(a) for a in node.attrs if a is not None), None)
    below = rf"_{{\text{{{axis}}}}}" if axis else ""
    return rf"\operatorname{{{node.op}}}{below}"


def _constant(node: Node) -> tuple[str, int]:
    value = node.attrs[0]
    if isinstance(value, bool):
        return rf"\text{{{number(value)}}}", _ATOM
    shown = number(value).replace("inf", r"\infty")
    mantissa, exponent, power = shown.partition("e")
    if exponent:
        shown = rf"{mantissa} \cdot 10^{{{int(power)}}}"
        return shown, _PRODUCT if not shown.startswith("-") else _PRODUCT - 1
    return shown, _ATOM if not shown.startswith("-") else _PRODUCT - 1
