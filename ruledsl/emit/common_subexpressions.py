"""Which values several equations of a phase read: each is computed once, by a function of its own."""

from __future__ import annotations

from ruledsl.ir.nodes import Node, walk


def shared_terms(roots: list[Node]) -> list[tuple[Node, str]]:
    """The largest values that more than one root reads, with a name for each, arguments before their readers."""
    readers: dict[int, set[int]] = {}
    nodes: dict[int, Node] = {}
    for number, root in enumerate(roots):
        for node in walk(root):
            readers.setdefault(id(node), set()).add(number)
            nodes[id(node)] = node
    wanted: set[int] = set()
    for root in roots:
        if len(readers[id(root)]) > 1:
            wanted.add(id(root))
        for node in walk(root):
            for arg in node.args:
                if len(readers[id(arg)]) > 1 and readers[id(arg)] != readers[id(node)]:
                    wanted.add(id(arg))
    chosen: dict[int, Node] = {}
    for key in wanted:
        node = nodes[key]
        while node.op in ("transpose", "neg") and not node.args[0].is_leaf:
            node = node.args[0]
        if _worth_sharing(node):
            chosen[id(node)] = node
    ordered = [node for node in walk(*roots) if id(node) in chosen]
    return [(node, _wish(node)) for node in ordered]


def _worth_sharing(node: Node) -> bool:
    if node.is_leaf or node.op in ("transpose", "full_like", "count", "random") or _indexed(node):
        return False
    return node.type.kind != "scalar" or any(part.op in ("tensor", "signal") for part in walk(node))


def _indexed(node: Node) -> bool:
    return any(part.op in ("tensor", "signal") and part.attrs[1] for part in walk(node)) and not any(
        part.op == "sum_k" for part in walk(node)
    )


def _wish(node: Node) -> str:
    """A name that says what it is: the author's own, or operation and operands."""
    if node.name:
        return node.name
    leaves = [str(part.attrs[0]) for part in walk(node) if part.op in ("signal", "tensor")]
    return "_".join([node.op, *leaves[:3]]) if node.op != "outer" else f"outer_{'_'.join(leaves[:3])}"
