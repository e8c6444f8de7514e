"""Canonical nodes: equal values are the same node, so that they are computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ruledsl.ir.nodes import Attribute, Node
from ruledsl.ir.operations import COMMUTATIVE, OPERATIONS
from ruledsl.ir.types import SCALAR, Type
from ruledsl.source import SourceLocation

Key = tuple[object, ...]


@dataclass
class Canonical:
    """The canonical nodes that have been made for the equations of a rule.

    rewrite     `rewrite(self, op, args, attrs, type, place)` gives another form of an operation on canonical nodes, or
                None where the operation is in canonical form (`ruledsl.passes.simplify`)
    interned    every node by what it is
    done        by the id of a node that was simplified: that node, since its id must not be used again, and its
                canonical one
    sizes       of the axes of the spaces
    transposed  of maps, by their ids
    long        how many scalar factors a product has, by its id
    """

    rewrite: Callable[
        [Canonical, str, tuple[Node, ...], tuple[Attribute, ...], Type, SourceLocation | None], Node | None
    ]
    interned: dict[Key, Node] = field(default_factory=dict)
    done: dict[int, tuple[Node, Node]] = field(default_factory=dict)
    sizes: dict[Key, Node] = field(default_factory=dict)
    transposed: dict[int, Node] = field(default_factory=dict)
    long: dict[int, int] = field(default_factory=dict)

    def make(
        self,
        op: str,
        args: tuple[Node, ...] = (),
        attrs: tuple[Attribute, ...] = (),
        type: Type | None = None,
        place: SourceLocation | None = None,
        name: str | None = None,
    ) -> Node:
        """The canonical node of an operation on canonical nodes."""
        if type is None:
            type = OPERATIONS[op].type_rule([arg.type for arg in args], attrs)
        new = self.rewrite(self, op, args, attrs, type, place)
        return new if new is not None else self.intern(op, args, attrs, type, place, name)

    def intern(
        self,
        op: str,
        args: tuple[Node, ...],
        attrs: tuple[Attribute, ...],
        type: Type,
        place: SourceLocation | None = None,
        name: str | None = None,
    ) -> Node:
        """The one node of an operation in canonical form; it takes the first name that it is given."""
        ids = tuple(id(arg) for arg in args)
        if op in COMMUTATIVE:
            ids = tuple(sorted(ids))
        key = (op, ids, attrs, tuple(a.__class__ for a in attrs), type, place if op == "random" else None)
        node = self.interned.get(key)
        if node is None:
            node = self.interned[key] = Node(op, args, attrs, type, place, name)
        elif name and node.name is None:
            node.name = name
        return node

    def const(self, value: float | bool, type: Type = SCALAR) -> Node:
        """The canonical node of a constant."""
        return self.intern("const", (), (value,), type.condition if isinstance(value, bool) else type)
