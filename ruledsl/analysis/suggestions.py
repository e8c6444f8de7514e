"""What was probably meant, where an expression has the wrong types."""

from __future__ import annotations

from ruledsl.analysis import names
from ruledsl.ir.nodes import Node
from ruledsl.ir.type_rules import Mismatch
from ruledsl.language import tree
from ruledsl.language.printer import print_expression


def guess(mismatch: Mismatch, op: str, args: tuple[Node, ...], operands: tuple[tree.Expr, ...]) -> str | None:
    """What was probably meant, where that can be guessed."""
    if mismatch.code == "E0306":
        matrix, vector = args
        left, right = (print_expression(operand) for operand in operands)
        guesses = []
        if matrix.type.target == vector.type.target:
            shown = left if isinstance(operands[0], tree.Name | tree.Index | tree.Transpose) else f"({left})"
            guesses.append(f"`{shown[:-2] if shown.endswith('.T') else shown + '.T'} @ {right}`")
        guesses += [
            f"`{left} @ {name}`"
            for name, type in names.SIGNALS.items()
            if type.target == matrix.type.source and name in ("x", "delta", "e")
        ]
        return f"did you mean {' or '.join(guesses)}?" if guesses else None
    if mismatch.code == "E0301" and len(args) >= 2:
        first, second = args[-2].type, args[-1].type
        if first.kind == second.kind == "map" and first.transposed.number == second.number:
            return f"did you mean `{print_expression(operands[-1])}.T`?"
        if {first.kind, second.kind} == {"map", "vector"} and op == "mul":
            return "a map is applied to an activity with `@`"
    if mismatch.code == "E0308":
        return "synapses connect pre with post, and out with pre or post"
    if mismatch.code == "E0305" and args[1].type.kind == "map":
        return "maps are applied one after the other, from the right: `A @ (B @ v)`; `*` multiplies synapse by synapse"
    if mismatch.code == "E0317":
        return "bring them to this layer first: `fixed D : post[k] -> pre ~ kaiming()`, then `D[k] @ delta[k]`"
    return {
        "E0302": "write `if condition then 1 else 0`",
        "E0303": "compare it with something, for example `> 0`",
        "E0304": "products of numbers are written with `*`, products of activities with `outer(a, b)`",
        "E0305": "elementwise products are written with `*`",
        "E0309": "an activity needs no transpose: `outer(v, w)` is the product of v and w transposed",
    }.get(mismatch.code)
