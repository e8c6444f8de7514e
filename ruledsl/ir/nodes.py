"""A node of the IR: an operation on nodes, with its type and the place it came from."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass

from ruledsl.ir.types import SCALAR, Type
from ruledsl.source import SourceLocation

Attribute = str | float | bool | None


@dataclass(eq=False, slots=True)
class Node:
    """`op(*args)` with static attributes.

    Leaves: `const` (value), `signal` (name, index), `tensor` (name, index), `scalar` (name), `random` (kind).
    `name` is the `let` that the author gave the value, for readable output; `place` is where it was written.
    Nodes compare by identity; `ruledsl.passes.simplify` makes equal nodes identical. They are never changed, except
    that an equal node may lend its name.
    """

    op: str
    args: tuple[Node, ...]
    attrs: tuple[Attribute, ...]
    type: Type
    place: SourceLocation | None = None
    name: str | None = None

    def __repr__(self) -> str:
        inside = [*(str(a) for a in self.attrs), *(repr(a) for a in self.args)]
        return f"{self.op}({', '.join(inside)})"

    @property
    def is_leaf(self) -> bool:
        """Whether the node reads something instead of computing it."""
        return self.op in ("const", "signal", "tensor", "scalar")

    @property
    def constant(self) -> float | bool | None:
        """The value of a `const`, else None."""
        value = self.attrs[0] if self.op == "const" else None
        return value if isinstance(value, int | float) else None


def const(value: float | bool, type: Type = SCALAR, place: SourceLocation | None = None) -> Node:
    """A constant; of a type other than scalar it is that value everywhere."""
    if isinstance(value, bool):
        type = type.condition
    return Node("const", (), (value,), type, place)


def scalar(name: str, place: SourceLocation | None = None) -> Node:
    """A counter, a size or a parameter."""
    return Node("scalar", (), (name,), SCALAR, place)


def signal(name: str, type: Type, index: str | None = None, place: SourceLocation | None = None) -> Node:
    """An activity of the network: x, u, delta, e, target, delta[k]."""
    return Node("signal", (), (name, index), type, place)


def tensor(name: str, type: Type, index: str | None = None, place: SourceLocation | None = None) -> Node:
    """W, b, or something that the rule declares."""
    return Node("tensor", (), (name, index), type, place)


def walk(*roots: Node, until: Container[int] = ()) -> Iterator[Node]:
    """Every node below the roots, arguments before their readers, each once; nothing below the ids in `until`."""
    seen: set[int] = set()
    for root in roots:
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                yield node
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                if id(node) not in until:
                    stack.extend((argument, False) for argument in reversed(node.args))


def rewrite(root: Node, rule: Callable[[Node, tuple[Node, ...]], Node], memo: dict[int, Node] | None = None) -> Node:
    """Rebuild from the leaves up: `rule(node, new_arguments)` gives what stands in for the node."""
    memo = {} if memo is None else memo
    for node in walk(root):
        if id(node) not in memo:
            memo[id(node)] = rule(node, tuple(memo[id(argument)] for argument in node.args))
    return memo[id(root)]


def with_args(node: Node, args: tuple[Node, ...]) -> Node:
    """The node's operation on other arguments; the node itself where they are its own."""
    if all(new is old for new, old in zip(args, node.args, strict=True)):
        return node
    return Node(node.op, args, node.attrs, node.type, node.place, node.name)


def reads(root: Node) -> set[str]:
    """The names of the signals, tensors and scalars that the value depends on."""
    return {str(node.attrs[0]) for node in walk(root) if node.op in ("signal", "tensor", "scalar")}
