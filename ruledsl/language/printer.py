"""Expression -> canonical text, with no more brackets than the meaning, or a reader, needs."""

from __future__ import annotations

from ruledsl.language.tree import (
    Binary,
    Boolean,
    Call,
    Conditional,
    Expr,
    Index,
    Keyword,
    Name,
    Number,
    Transpose,
    Unary,
)

# From the loosest to the tightest, as in grammar.lark.
_LEVELS = (
    ("if",),
    ("or",),
    ("and",),
    ("not",),
    ("==", "!=", "<", "<=", ">", ">="),
    ("+", "-"),
    ("*", "/", "@"),
    ("sign",),
    ("**",),
    (".T",),
    ("atom",),
)
LEVEL = {operator: level for level, operators in enumerate(_LEVELS) for operator in operators}


def level(expr: Expr) -> int:
    """How tightly the outermost operation of an expression binds."""
    match expr:
        case Conditional():
            return LEVEL["if"]
        case Binary():
            return LEVEL[expr.op]
        case Unary():
            return LEVEL["not" if expr.op == "not" else "sign"]
        case Transpose():
            return LEVEL[".T"]
        case _:
            return LEVEL["atom"]


def operand_levels(expr: Binary) -> tuple[int, int]:
    """The loosest expressions that may stand left and right of the operator without brackets."""
    own = LEVEL[expr.op]
    if isinstance(expr.left, Binary) and LEVEL[expr.left.op] == own and (expr.op == "@") != (expr.left.op == "@"):
        return own + 1, own + 1  # (M * S) @ v, (W @ x) / n: who remembers that these bind alike?
    if expr.op == "**":  # binds to the right, and takes a sign there: a ** -b ** c
        return LEVEL[".T"], LEVEL["sign"]
    if own == LEVEL["=="]:  # comparisons don't chain
        return own + 1, own + 1
    return own, own + 1


def print_expression(expr: Expr) -> str:
    """The expression on one line; reading it gives the same tree."""
    match expr:
        case Number():
            return expr.text
        case Boolean():
            return "true" if expr.value else "false"
        case Name():
            return expr.id
        case Index():
            return f"{expr.id}[{expr.index}]"
        case Transpose():
            return f"{print_operand(expr.operand, transpose_level(expr.operand))}.T"
        case Unary():
            return f"{sign(expr)}{print_operand(expr.operand, level(expr))}"
        case Binary():
            left, right = operand_levels(expr)
            return f"{print_operand(expr.left, left)} {expr.op} {print_operand(expr.right, right)}"
        case Conditional():
            condition, then, otherwise = map(print_expression, (expr.condition, expr.then, expr.otherwise))
            return f"if {condition} then {then} else {otherwise}"
        case Call():
            return f"{expr.function.id}({', '.join(map(print_argument, (*expr.args, *expr.keywords)))})"


def print_argument(argument: Expr | Keyword) -> str:
    """`x`, or `mean=batch`."""
    if isinstance(argument, Keyword):
        return f"{argument.name.id}={print_expression(argument.value)}"
    return print_expression(argument)


def print_operand(expr: Expr, loosest: int) -> str:
    """The expression, in brackets if it binds less tightly than `loosest`."""
    text = print_expression(expr)
    return text if level(expr) >= loosest else f"({text})"


def sign(expr: Unary) -> str:
    """`not ` or `-`."""
    return "not " if expr.op == "not" else "-"


def transpose_level(operand: Expr) -> int:
    """What may stand before `.T`; a number may not, since `2.T` looks like one."""
    return LEVEL["atom"] + 1 if isinstance(operand, Number) else LEVEL[".T"]
