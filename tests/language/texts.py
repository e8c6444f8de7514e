"""Random syntax trees, and their text as a careless author writes it: brackets, line ends, comments anywhere."""

from __future__ import annotations

import keyword
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from ruledsl.language import tree
from ruledsl.language.grammar import spellings
from ruledsl.language.tree import Node
from ruledsl.source import Span

S = Span(1, 1, 1, 1)
RESERVED = set(spellings().values())

# `step`, `first` and the like are words of the schedule, and names everywhere else.
names = st.sampled_from(
    ["W", "x", "delta", "eta_B", "send", "step", "first", "epochs", "each", "alternate", "p2"]
) | st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,6}", fullmatch=True).filter(
    lambda name: name not in RESERVED and not keyword.iskeyword(name)
)
idents = st.builds(tree.Ident, span=st.just(S), id=names)
numbers = st.sampled_from(["0", "1", "0.5", ".5", "1e-3", "2E+4", "10.", "inf"]).map(
    lambda text: tree.Number(span=S, value=float(text), text=text)
)
docs = st.none() | st.text(st.sampled_from('ab "\\#{}é'), max_size=8)


def tuples(of: st.SearchStrategy[Any], least: int = 0, most: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, min_size=least, max_size=most).map(tuple)


def keywords(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[tree.Keyword, ...]]:
    pair = st.builds(tree.Keyword, span=st.just(S), name=idents, value=values)
    return st.lists(pair, max_size=2, unique_by=lambda keyword: keyword.name.id).map(tuple)


leaves = st.one_of(
    numbers,
    st.builds(tree.Boolean, span=st.just(S), value=st.booleans()),
    st.builds(tree.Name, span=st.just(S), id=names),
    st.builds(tree.Index, span=st.just(S), id=names, index=names),
)
operators = st.sampled_from(["+", "-", "*", "/", "**", "@", "==", "!=", "<", "<=", ">", ">=", "and", "or"])


def _grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(tree.Binary, span=st.just(S), op=operators, left=inner, right=inner),
        st.builds(tree.Unary, span=st.just(S), op=st.sampled_from(["-", "not"]), operand=inner),
        st.builds(tree.Transpose, span=st.just(S), operand=inner),
        st.builds(tree.Conditional, span=st.just(S), condition=inner, then=inner, otherwise=inner),
        st.builds(tree.Call, span=st.just(S), function=idents, args=tuples(inner), keywords=keywords(inner)),
    )


expressions = st.recursive(leaves, _grow, max_leaves=12)
calls = st.builds(
    tree.Call, span=st.just(S), function=idents, args=tuples(expressions, 0, 2), keywords=keywords(expressions)
)
spaces = st.builds(tree.SpaceRef, span=st.just(S), id=names, index=st.none() | names)
types = st.builds(tree.TypeRef, span=st.just(S), source=st.none() | spaces, target=spaces)
intervals = st.builds(
    tree.Interval, span=st.just(S), low=leaves, high=leaves, low_closed=st.booleans(), high_closed=st.booleans()
)
phases = tuples(idents, 1, 2)
entries = st.one_of(
    st.builds(tree.First, span=st.just(S), count=expressions, phases=phases),
    st.builds(tree.Each, span=st.just(S), phases=phases),
    st.builds(tree.Alternate, span=st.just(S), phases=phases),
)
clauses = st.builds(
    tree.Clause,
    span=st.just(S),
    verb=st.sampled_from(["allow", "forbid"]),
    channel=idents,
    argument=st.builds(tree.Name, span=st.just(S), id=names)
    | st.builds(tree.Index, span=st.just(S), id=names, index=names),
    sink=st.none() | idents,
)
by = st.none() | idents
plain_items = st.one_of(
    st.builds(tree.Source, span=st.just(S), text=docs.filter(lambda text: text is not None)),
    st.builds(
        tree.Param,
        span=st.just(S),
        name=idents,
        default=expressions,
        interval=st.none() | intervals,
        doc=docs,
        static=st.booleans(),
    ),
    st.builds(
        tree.Declaration,
        span=st.just(S),
        kind=st.sampled_from(["weight", "fixed", "fresh", "state"]),
        name=idents,
        type=types,
        initial=expressions,
        random=st.booleans(),
        doc=docs,
    ),
    st.builds(tree.Let, span=st.just(S), name=idents, value=expressions),
    st.builds(tree.Primitive, span=st.just(S), name=idents, value=expressions),
    st.builds(tree.Feedback, span=st.just(S), slot=idents, value=expressions),
    st.builds(tree.Grad, span=st.just(S), target=idents, value=expressions, by=by),
    st.builds(tree.Assign, span=st.just(S), target=idents, value=expressions),
    st.builds(tree.Minimize, span=st.just(S), energy=expressions, over=tuples(idents, 1, 2), by=by),
    st.builds(tree.OptimizerChoice, span=st.just(S), slot=idents, value=calls),
    st.builds(tree.Drive, span=st.just(S), signal=idents, value=expressions),
    st.builds(tree.Extends, span=st.just(S), name=idents),
    st.builds(tree.Use, span=st.just(S), name=idents, keywords=keywords(expressions)),
    st.builds(tree.Schedule, span=st.just(S), entries=tuples(entries)),
    st.builds(tree.Locality, span=st.just(S), clauses=tuples(clauses)),
)
items = st.recursive(
    plain_items,
    lambda inner: st.one_of(
        st.builds(tree.When, span=st.just(S), condition=expressions, body=tuples(inner)),
        st.builds(tree.AfterStep, span=st.just(S), body=tuples(inner)),
        st.builds(tree.Phase, span=st.just(S), name=idents, body=tuples(inner)),
    ),
    max_leaves=4,
)
definitions = st.builds(
    tree.Definition,
    span=st.just(S),
    kind=st.sampled_from(["rule", "optimizer", "constraint"]),
    name=idents,
    title=docs,
    body=tuples(items, 0, 5),
)
files = st.builds(tree.File, span=st.just(S), definitions=tuples(definitions, 1, 2))


def bare(value: Any) -> Any:
    """A node as plain data, without spans."""
    if isinstance(value, Node):
        return type(value).__name__, {
            name: bare(getattr(value, name)) for name in type(value).model_fields if name != "span"
        }
    return tuple(map(bare, value)) if isinstance(value, tuple) else value


def words(node: Any) -> list[str]:
    """A node as words and signs, every expression in brackets: written without any knowledge of precedence."""
    return list(_words(node))


def _listed(parts: Any, write: Callable[[Any], Any]) -> Any:
    for number, part in enumerate(parts):
        if number:
            yield ","
        yield from write(part)


def _doc(text: str | None) -> list[str]:
    return [] if text is None else ['"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"']


def _block(parts: Any) -> Any:
    yield "{"
    for part in parts:
        yield from _words(part)
    yield "}"


def _words(n: Any) -> Any:
    match n:
        case tree.Number():
            yield n.text
        case tree.Boolean():
            yield "true" if n.value else "false"
        case tree.Name() | tree.Ident():
            yield n.id
        case tree.Index():
            yield from (n.id, "[", n.index, "]")
        case tree.Binary():
            yield from ("(", *_words(n.left), n.op, *_words(n.right), ")")
        case tree.Unary():
            yield from ("(", n.op, *_words(n.operand), ")")
        case tree.Transpose():
            yield from ("(", *_words(n.operand), ")", ".T")
        case tree.Conditional():
            yield from ("(", "if", *_words(n.condition), "then", *_words(n.then), "else", *_words(n.otherwise), ")")
        case tree.Keyword():
            yield from (n.name.id, "=", *_words(n.value))
        case tree.Call():
            yield from (n.function.id, "(", *_listed((*n.args, *n.keywords), _words), ")")
        case tree.SpaceRef():
            yield from (n.id, "[", n.index, "]") if n.index else (n.id,)
        case tree.TypeRef():
            yield from (*_words(n.source), "->") if n.source else ()
            yield from _words(n.target)
        case tree.Source():
            yield from ("source", *_doc(n.text))
        case tree.Interval():
            yield from (
                "in",
                "[" if n.low_closed else "(",
                *_words(n.low),
                ",",
                *_words(n.high),
                "]" if n.high_closed else ")",
            )
        case tree.Param():
            yield from ("static", "param") if n.static else ("param",)
            yield from (n.name.id, "=", *_words(n.default), *(_words(n.interval) if n.interval else ()), *_doc(n.doc))
        case tree.Declaration():
            yield from (
                n.kind,
                n.name.id,
                ":",
                *_words(n.type),
                "~" if n.random else "=",
                *_words(n.initial),
                *_doc(n.doc),
            )
        case tree.Let() | tree.Primitive():
            yield from (type(n).__name__.lower(), n.name.id, "=", *_words(n.value))
        case tree.Feedback():
            yield from ("feedback", n.slot.id, "=", *_words(n.value))
        case tree.Grad():
            yield from ("grad", n.target.id, "=", *_words(n.value), *(("by", n.by.id) if n.by else ()))
        case tree.Assign():
            yield from (n.target.id, "<-", *_words(n.value))
        case tree.Minimize():
            yield from (
                "minimize",
                *_words(n.energy),
                "over",
                *_listed(n.over, _words),
                *(("by", n.by.id) if n.by else ()),
            )
        case tree.OptimizerChoice():
            yield from ("optimizer", n.slot.id, "=", *_words(n.value))
        case tree.Drive():
            yield from ("drive", n.signal.id, "=", *_words(n.value))
        case tree.Extends():
            yield from ("extends", n.name.id)
        case tree.Use():
            yield from ("use", n.name.id, *(("(", *_listed(n.keywords, _words), ")") if n.keywords else ()))
        case tree.First():
            yield from ("first", *_words(n.count), "epochs", ":", *_listed(n.phases, _words))
        case tree.Each():
            yield from ("each", "step", ":", *_listed(n.phases, _words))
        case tree.Alternate():
            yield from ("alternate", ":", *_listed(n.phases, _words))
        case tree.Clause():
            yield from (n.verb, n.channel.id, "(", *_words(n.argument), ")", *(("->", n.sink.id) if n.sink else ()))
        case tree.Schedule():
            yield from ("schedule", *_block(n.entries))
        case tree.Locality():
            yield from ("locality", *_block(n.clauses))
        case tree.When():
            yield from ("when", *_words(n.condition), *_block(n.body))
        case tree.AfterStep():
            yield from ("after", "step", *_block(n.body))
        case tree.Phase():
            yield from ("phase", n.name.id, *_block(n.body))
        case tree.Definition():
            yield from (n.kind, n.name.id, *_doc(n.title), *_block(n.body))
        case tree.File():
            for definition in n.definitions:
                yield from _words(definition)
        case _:
            raise AssertionError(n)


@st.composite
def written(draw: st.DrawFn) -> tuple[tree.File, str, list[str]]:
    """A tree, a text of it, and the comments in that text."""
    file = draw(files)
    parts = words(file)
    gaps = draw(
        st.lists(
            st.sampled_from([" ", " ", "  ", "\n", "\n\n\n", "\t", " # {} \n", "#a\n", '\n  # b "\n']),
            min_size=len(parts),
            max_size=len(parts),
        )
    )
    comments = [gap.strip() for gap in gaps if "#" in gap]
    return file, "".join(part + gap for part, gap in zip(parts, gaps, strict=True)), comments
