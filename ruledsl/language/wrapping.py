"""Expression -> text of several lines where one is too narrow: terms, branches and arguments get their own lines."""

from __future__ import annotations

from ruledsl.language.printer import level, operand_levels, print_expression, sign, transpose_level
from ruledsl.language.tree import Binary, Call, Conditional, Expr, Keyword, Transpose, Unary

WIDTH = 100
STEP = 2


def lay_out(expr: Expr | Keyword, column: int, indent: int, after: int = 0, equals: str = "=") -> str:
    """The expression from `column` on; its further lines are indented by more than `indent`.

    `after` is how many characters will follow on its last line; `equals` stands between a keyword and its value.
    """
    if isinstance(expr, Keyword):
        head = expr.name.id + equals
        return head + lay_out(expr.value, column + len(head), indent, after)
    flat = print_expression(expr) if equals == "=" else _spaced(expr, equals)
    if column + len(flat) + after <= WIDTH:
        return flat
    match expr:
        case Call() if expr.args or expr.keywords:
            inner = indent + STEP
            arguments = [lay_out(argument, inner, inner, 1) for argument in expr.args]
            arguments += [lay_out(keyword, inner, inner, 1, equals) for keyword in expr.keywords]
            lines = ",\n".join(" " * inner + argument for argument in arguments)
            return f"{expr.function.id}(\n{lines}\n{' ' * indent})"
        case Transpose():
            return _operand(expr.operand, transpose_level(expr.operand), column, indent, after + 2) + ".T"
        case Unary():
            head = sign(expr)
            return head + _operand(expr.operand, level(expr), column + len(head), indent, after)
        case Binary():
            loosest_left, loosest_right = operand_levels(expr)
            if expr.op in ("+", "-", "and", "or"):
                left = _operand(expr.left, loosest_left, column, indent, 0)
                head = f"{left}\n{' ' * (indent + STEP)}{expr.op} "
                return head + _operand(expr.right, loosest_right, _end(head, column), indent + STEP, after)
            head = f"{_operand(expr.left, loosest_left, column, indent, len(expr.op) + 1)} {expr.op} "
            return head + _operand(expr.right, loosest_right, _end(head, column), indent, after)
        case Conditional():
            text = f"if {lay_out(expr.condition, column + 3, indent + STEP, 5)} then "
            text += lay_out(expr.then, _end(text, column), indent + STEP)
            text += f"\n{' ' * (indent + STEP)}else "
            inner = indent if isinstance(expr.otherwise, Conditional) else indent + STEP
            return text + lay_out(expr.otherwise, _end(text, column), inner, after)
        case _:
            return flat


def _operand(expr: Expr, loosest: int, column: int, indent: int, after: int) -> str:
    if level(expr) >= loosest:
        return lay_out(expr, column, indent, after)
    return f"({lay_out(expr, column + 1, indent, after + 1)})"


def _spaced(expr: Expr, equals: str) -> str:
    """`adam(lr = 0.01)`: a call outside expressions has room around its `=`."""
    if not isinstance(expr, Call):
        return print_expression(expr)
    arguments = [print_expression(a) for a in expr.args]
    arguments += [f"{k.name.id}{equals}{print_expression(k.value)}" for k in expr.keywords]
    return f"{expr.function.id}({', '.join(arguments)})"


def _end(text: str, column: int) -> int:
    """The column after a text that starts at `column`."""
    _, newline, last = text.rpartition("\n")
    return len(last) if newline else column + len(text)
