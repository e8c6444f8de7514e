"""Bring every map into the orientation in which it is stored, so that `sign(W)` and `sign(W.T)` are one computation.

Both orientations of a map are stored alike: a transpose is no work and leaves no trace in emitted code. What is
computed elementwise in the other orientation is computed in the stored one, and its transpose taken.
"""

from __future__ import annotations

from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.operations import ELEMENTWISE
from ruledsl.ir.types import Type
from ruledsl.passes.simplify import stored_the_other_way


class Storage:
    """Rewrites nodes; equal results are the same node, for all equations of a rule."""

    def __init__(self) -> None:
        self._interned: dict[tuple[object, ...], Node] = {}
        self._done: dict[int, tuple[Node, Node]] = {}  # with the node itself: its id must not be used again

    def __call__(self, root: Node) -> Node:
        """The node of the value in which every map is computed in its stored orientation."""
        for node in walk(root):
            if id(node) not in self._done:
                self._done[id(node)] = node, self._rewritten(node, tuple(self._done[id(arg)][1] for arg in node.args))
        return self._done[id(root)][1]

    def _rewritten(self, node: Node, args: tuple[Node, ...]) -> Node:
        if node.op == "transpose":
            return self._transposed(args[0])
        if node.type.kind != "map" or not stored_the_other_way(node.type):
            return self._intern(node, args, node.type)
        if node.op in ("tensor", "const"):
            return self._transposed(self._intern(node, (), node.type.transposed))
        if node.op in ELEMENTWISE or node.op == "full_like":
            turned = tuple(self._transposed(arg) if arg.type.kind == "map" else arg for arg in args)
            return self._transposed(self._intern(node, turned, node.type.transposed))
        return self._intern(node, args, node.type)

    def _transposed(self, node: Node) -> Node:
        if node.op == "transpose":
            return node.args[0]
        new = Node("transpose", (node,), (), node.type.transposed, node.place)
        return self._interned.setdefault(("transpose", id(node)), new)

    def _intern(self, node: Node, args: tuple[Node, ...], type: Type) -> Node:
        place = node.place if node.op == "random" else None
        values = tuple((value.__class__, value) for value in node.attrs)
        key = (node.op, tuple(id(arg) for arg in args), values, type, place)
        found = self._interned.setdefault(key, Node(node.op, args, node.attrs, type, node.place, node.name))
        if node.name and found.name is None:
            found.name = node.name
        return found
