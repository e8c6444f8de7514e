"""The syntax tree of a `.rule` file: what the author wrote, with the place of every part.

Nothing here knows what a name means; `ruledsl.analysis` finds that out. Every node is frozen, compares by
value and carries the `Span` it was read from, so that any later stage can point at the text.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from ruledsl.source import Span


class Node(BaseModel):
    """Anything that was read from the text."""

    # The parser builds nodes unvalidated: the validators, which take long to make, are left until somebody needs them.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    span: Span


class Ident(Node):
    """A name where it is declared or used as a target."""

    id: str


# --- expressions -------------------------------------------------------------------------------------------


class Number(Node):
    """`0.1`, `1e-3`, `inf`; `text` is the spelling of the author, kept for the formatter."""

    value: float
    text: str


class Boolean(Node):
    """`true` or `false`."""

    value: bool


class Name(Node):
    """A use of a name: `W`, `delta`, `eta_B`; also an axis word such as `batch` in `center(z, batch)`."""

    id: str


class Index(Node):
    """`delta[k]`, `D[k]`: one of a family that runs over the layers downstream."""

    id: str
    index: str


class Transpose(Node):
    """`M.T`"""

    operand: Expr


class Unary(Node):
    """`-a` or `not a`."""

    op: Literal["-", "not"]
    operand: Expr


class Binary(Node):
    """`left op right`."""

    op: Literal["+", "-", "*", "/", "**", "@", "==", "!=", "<", "<=", ">", ">=", "and", "or"]
    left: Expr
    right: Expr


class Conditional(Node):
    """`if condition then then else otherwise`."""

    condition: Expr
    then: Expr
    otherwise: Expr


class Keyword(Node):
    """`name=value` in a call."""

    name: Ident
    value: Expr


class Call(Node):
    """`function(args, keywords)`: an operation, a distribution, an optimizer or a constraint."""

    function: Ident
    args: tuple[Expr, ...] = ()
    keywords: tuple[Keyword, ...] = ()


Expr = Number | Boolean | Name | Index | Transpose | Unary | Binary | Conditional | Call


# --- types -------------------------------------------------------------------------------------------------


class SpaceRef(Node):
    """`pre`, `post`, `out`, `post[k]`, `scalar`, or in an optimizer the parameter `p` ("of the type of p")."""

    id: str
    index: str | None = None


class TypeRef(Node):
    """`post -> pre` (source and target) or a single space (source is None)."""

    source: SpaceRef | None = None
    target: SpaceRef


# --- items of a body ---------------------------------------------------------------------------------------


class Source(Node):
    """`source "Akrout et al. 2019, eqs. 16, 17"`"""

    text: str


class Interval(Node):
    """`in (0, inf)`, `in [0, 1]`: where a parameter may lie."""

    low: Expr
    high: Expr
    low_closed: bool
    high_closed: bool


class Param(Node):
    """`param eta = 0.1 in (0, inf) "doc"`, `static param n = true`."""

    name: Ident
    default: Expr
    interval: Interval | None = None
    doc: str | None = None
    static: bool = False


class Declaration(Node):
    """`weight B : post -> pre ~ normal(0, 1)`, `fixed V : pre -> post = W`, `fresh M ...`, `state s : T = e`.

    `random` tells `~ distribution` from `= expression`.
    """

    kind: Literal["weight", "fixed", "fresh", "state"]
    name: Ident
    type: TypeRef
    initial: Expr
    random: bool
    doc: str | None = None


class Let(Node):
    """`let z = relu(W @ x + b)`"""

    name: Ident
    value: Expr


class Primitive(Node):
    """`primitive amp = -dot(f, h)`: a scalar energy."""

    name: Ident
    value: Expr


class Feedback(Node):
    """`feedback send = B @ delta`"""

    slot: Ident
    value: Expr


class Grad(Node):
    """`grad W = expr by align`"""

    target: Ident
    value: Expr
    by: Ident | None = None


class Assign(Node):
    """`B <- expr`"""

    target: Ident
    value: Expr


class Minimize(Node):
    """`minimize E over W, B by align`"""

    energy: Expr
    over: tuple[Ident, ...]
    by: Ident | None = None


class OptimizerChoice(Node):
    """`optimizer align = adam(lr = 0.0098)`"""

    slot: Ident
    value: Call


class When(Node):
    """`when condition { ... }`"""

    condition: Expr
    body: tuple[Item, ...]


class AfterStep(Node):
    """`after step { ... }`"""

    body: tuple[Item, ...]


class Drive(Node):
    """`drive x = normal(0, 1)`, inside a phase."""

    signal: Ident
    value: Expr


class Phase(Node):
    """`phase mirror { ... }`"""

    name: Ident
    body: tuple[Item, ...]


class First(Node):
    """`first 2 epochs : mirror`"""

    count: Expr
    phases: tuple[Ident, ...]


class Each(Node):
    """`each step : task, mirror`"""

    phases: tuple[Ident, ...]


class Alternate(Node):
    """`alternate : task, align`"""

    phases: tuple[Ident, ...]


class Schedule(Node):
    """`schedule { ... }`"""

    entries: tuple[First | Each | Alternate, ...]


class Clause(Node):
    """`allow sign(W) -> send`, `allow multiplex(post -> pre)`, `forbid broadcast(delta[k])`; no sink: every sink."""

    verb: Literal["allow", "forbid"]
    channel: Ident
    argument: Name | Index
    towards: Name | Index | None = None
    sink: Ident | None = None


class Locality(Node):
    """`locality { ... }`"""

    clauses: tuple[Clause, ...]


class Extends(Node):
    """`extends base`"""

    name: Ident


class Use(Node):
    """`use frozen_signs(at = 0.05)`"""

    name: Ident
    keywords: tuple[Keyword, ...] = ()


Item = (
    Source
    | Param
    | Declaration
    | Let
    | Primitive
    | Feedback
    | Grad
    | Assign
    | Minimize
    | OptimizerChoice
    | When
    | AfterStep
    | Drive
    | Phase
    | Schedule
    | Locality
    | Extends
    | Use
)


class Definition(Node):
    """`rule name "Title" { ... }`, and the same for `optimizer` and `constraint`."""

    kind: Literal["rule", "optimizer", "constraint"]
    name: Ident
    title: str | None = None
    body: tuple[Item, ...]


class File(Node):
    """Everything in one `.rule` file, in order."""

    definitions: tuple[Definition, ...]
