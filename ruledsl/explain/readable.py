"""Equations as a reader wants them: no transposed products, and a name for what is long and read more than once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ruledsl.ir.nodes import Node, rewrite, walk, with_args
from ruledsl.ir.operations import make
from ruledsl.ir.printer import show

LONG = 24  # characters


def readable(roots: Sequence[Node], taken: frozenset[str]) -> list[Node]:
    """The values under better names, which differ from those in `taken`. A root has a name only if it is read.

    `outer(x, delta)` stands for `outer(delta, x).T`; two different values never have the same name; long values that
    are read more than once, and choices in the middle of a formula, are called t1, t2, ...
    """
    values = _named_once(_turned(roots))
    values = _with_shared(values, taken)
    below = {node.name for value in values for node in walk(value) if node.name and node is not value}
    return [value if value.name in below else replace(value, name=None) for value in values]


def named(roots: Sequence[Node]) -> list[Node]:
    """The values that have a name, arguments before their readers, each name once."""
    return list({node.name: node for node in walk(*roots) if node.name and not node.is_leaf}.values())


def _turned(roots: Sequence[Node]) -> list[Node]:
    memo: dict[int, Node] = {}

    def rule(node: Node, args: tuple[Node, ...]) -> Node:
        if node.op == "transpose" and args[0].op == "outer":
            after, before = args[0].args
            return make("outer", before, after, attrs=args[0].attrs, like=node)
        return replace(node, name=None) if node.is_leaf and node.name else with_args(node, args)

    return [rewrite(root, rule, memo) for root in roots]


def _named_once(roots: Sequence[Node]) -> list[Node]:
    shown: dict[str, set[str]] = {}
    for node in walk(*roots):
        if node.name:
            shown.setdefault(node.name, set()).add(show(node, names=False))
    memo: dict[int, Node] = {}

    def rule(node: Node, args: tuple[Node, ...]) -> Node:
        ambiguous = node.name is not None and len(shown[node.name]) > 1
        return replace(node, args=args, name=None) if ambiguous else with_args(node, args)

    return [rewrite(root, rule, memo) for root in roots]


def _with_shared(roots: Sequence[Node], taken: frozenset[str]) -> list[Node]:
    order = list(walk(*roots))
    readers: dict[int, int] = {}
    for argument in [*roots, *(argument for node in order for argument in node.args)]:
        readers[id(argument)] = readers.get(id(argument), 0) + 1
    whole = {id(root) for root in roots} | {id(arg) for node in order if node.op == "where" for arg in node.args}
    used = {*taken, *(node.name for node in order)}
    free = (name for number in range(1, len(order) + len(used) + 1) if (name := f"t{number}") not in used)
    memo: dict[int, Node] = {}

    def rule(node: Node, args: tuple[Node, ...]) -> Node:
        new = with_args(node, args)
        family = any(part.op in ("signal", "tensor") and part.attrs[1] for part in walk(node))
        if node.name or node.is_leaf or family or len(show(new)) <= LONG:
            return new
        inside_a_sum = node.op == "where" and id(node) not in whole
        return replace(new, name=next(free)) if readers[id(node)] > 1 or inside_a_sum else new

    return [rewrite(root, rule, memo) for root in roots]
