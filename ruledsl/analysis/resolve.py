"""Resolve: one flat definition out of a definition and everything it extends.

An item of the body replaces the item of the base that has the same key: a declaration the one of the same name, an
update the one of the same target, and so on. What stays keeps the text that it was written in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ruledsl.analysis.names import RESERVED, meaning, suggestion
from ruledsl.diagnostics import Diagnostics
from ruledsl.language import tree
from ruledsl.language.tree import Definition, Ident, Item
from ruledsl.source import Source, SourceLocation, Span

Key = tuple[str, ...]
DEEPEST = 50  # definitions that extend one another


class Located(NamedTuple):
    """An item and the text it was written in."""

    item: Item
    text: Source

    def place(self, span: Span | None = None) -> SourceLocation:
        """The place of a part of the item (of all of it, by default)."""
        return SourceLocation(span or self.item.span, self.text)


class Found(NamedTuple):
    """A definition and the text it was written in."""

    definition: Definition
    text: Source


class Library:
    """Where definitions are looked up: first the file itself, then what `fallback` knows."""

    def __init__(
        self,
        file: tree.File,
        text: Source,
        fallback: Callable[[str], Found | None] = lambda name: None,
        known: Callable[[], list[str]] = list,
    ) -> None:
        self.local = {d.name.id: Found(d, text) for d in file.definitions}
        self.fallback, self.known = fallback, known

    def find(self, name: str) -> Found | None:
        """The definition called `name`, or None."""
        return self.local.get(name) or self.fallback(name)

    def names(self) -> list[str]:
        """Every name that could have been meant."""
        return [*self.local, *self.known()]


@dataclass
class Flat:
    """A definition with nothing left to look up: its own items and those it inherits, in order."""

    definition: Definition
    text: Source
    items: list[Located] = field(default_factory=list)
    used: list[tuple[Located, Flat]] = field(default_factory=list)
    optimizers: dict[str, tuple[Located, Flat]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The definition's name."""
        return self.definition.name.id

    def of(self, *kinds: type) -> list[Located]:
        """The items of the given kinds."""
        return [located for located in self.items if isinstance(located.item, kinds)]


def resolve(found: Found, library: Library, diagnostics: Diagnostics) -> Flat:
    """Flatten `extends`, look up `use` and `optimizer`; every mistake in names is reported."""
    flat = Flat(found.definition, found.text)
    flat.items = _inherited(found, library, diagnostics, (), {})
    if found.definition.kind != "rule":
        return flat
    for located in flat.items:
        if isinstance(located.item, tree.Use):
            other = _look_up(located.item.name, "constraint", located.text, library, diagnostics)
            if other:
                flat.used.append((located, resolve(other, library, diagnostics)))
        elif isinstance(located.item, tree.OptimizerChoice):
            other = _look_up(located.item.value.function, "optimizer", located.text, library, diagnostics)
            if other:
                flat.optimizers[located.item.slot.id] = (located, resolve(other, library, diagnostics))
    return flat


def _look_up(name: Ident, kind: str, text: Source, library: Library, diagnostics: Diagnostics) -> Found | None:
    found = library.find(name.id)
    if found is None:
        help = suggestion(name.id, library.names())
        diagnostics.add("E0206", name.span, help=help, text=text, kind=kind, name=name.id)
    elif found.definition.kind != kind:
        article = {"rule": "a rule", "optimizer": "an optimizer", "constraint": "a constraint"}
        values = {"name": name.id, "found": article[found.definition.kind], "wanted": article[kind]}
        diagnostics.add("E0207", name.span, text=text, **values)
        return None
    return found


def _inherited(
    found: Found, library: Library, diagnostics: Diagnostics, path: tuple[str, ...], seen: dict[int, list[Located]]
) -> list[Located]:
    """The items of a definition and of all that it extends; `seen` holds those of the definitions seen before."""
    definition, text = found
    path = (*path, definition.name.id)
    if id(definition) in seen:
        return seen[id(definition)]
    own = [Located(item, text) for item in definition.body if not isinstance(item, tree.Extends)]
    _check_own(definition, own, diagnostics)
    bases: dict[Key, Located] = {}
    for item in definition.body:
        if not isinstance(item, tree.Extends):
            continue
        if item.name.id in path:
            cycle = " -> ".join((*path[path.index(item.name.id) :], item.name.id))
            diagnostics.add("E0205", item.name.span, text=text, name=item.name.id, cycle=cycle)
            continue
        if len(path) > DEEPEST:
            diagnostics.add("E0105", item.span, text=text, limit=DEEPEST)
            continue
        base = _look_up(item.name, definition.kind, text, library, diagnostics)
        if base:
            for located in _inherited(base, library, diagnostics, path, seen):
                bases[_key(located.item, len(bases))] = located
    for index, located in enumerate(own):
        key = _key(located.item, len(bases) + index)
        bases[key] = located
    return seen.setdefault(id(definition), list(bases.values()))


def _key(item: Item, position: int) -> Key:
    """What an item of a body replaces in the base: the item with the same key."""
    match item:
        case tree.Param() | tree.Declaration() | tree.Let() | tree.Primitive():
            return ("name", item.name.id)
        case tree.Feedback():
            return ("feedback", item.slot.id)
        case tree.Grad():
            return ("update", item.target.id, item.by.id if item.by else "task")
        case tree.Assign():
            return ("update", item.target.id, "task")
        case tree.Minimize():
            return ("minimize", *(over.id for over in item.over), "by", item.by.id if item.by else "task")
        case tree.OptimizerChoice():
            return ("optimizer", item.slot.id)
        case tree.Use():
            return ("use", item.name.id)
        case tree.Phase():
            return ("phase", item.name.id)
        case tree.AfterStep() | tree.Schedule() | tree.Locality() | tree.Source():
            return (type(item).__name__,)
        case _:
            return ("item", str(position), str(item.span))


_TWICE: Mapping[str, str] = {
    "feedback": "the feedback",
    "update": "the update of `{0}`",
    "minimize": "this `minimize`",
    "optimizer": "the optimizer `{0}`",
    "use": "the constraint `{0}`",
    "phase": "the phase `{0}`",
    "AfterStep": "`after step`",
    "Schedule": "the schedule",
    "Locality": "the locality block",
    "Source": "the source",
}


def _check_own(definition: Definition, own: list[Located], diagnostics: Diagnostics) -> None:
    """Within one body: no name twice, none that the language has taken, nothing that does not belong there."""
    seen: dict[Key, Located] = {}
    for position, located in enumerate(own):
        item, text = located
        key = _key(item, position)
        if key in seen and key[0] == "name":
            first = seen[key].item.span.line
            name = _declared(item)
            help = f"the first one is in line {first}"
            diagnostics.add("E0202", name.span, help=help, text=text, name=name.id)
        elif key in seen:
            what = _TWICE[key[0]].format(*key[1:])
            help = f"the first one is in line {seen[key].item.span.line}"
            if isinstance(item, tree.Minimize):
                help += "; energies can be added: `minimize a + b over ...`"
            diagnostics.add("E0215", item.span, help=help, text=text, what=what)
        seen.setdefault(key, located)
        if key[0] == "name":
            check_new_name(_declared(item), definition.kind, text, diagnostics)


def _declared(item: Item) -> Ident:
    assert isinstance(item, tree.Param | tree.Declaration | tree.Let | tree.Primitive)
    return item.name


def check_new_name(name: Ident, kind: str, text: Source, diagnostics: Diagnostics) -> None:
    """A declaration must not take a name that the language uses."""
    taken = name.id in RESERVED or (kind == "optimizer" and name.id in ("p", "g"))
    if taken:
        words = meaning(name.id) if name.id in RESERVED else "what an optimizer moves"
        help = "choose another name"
        diagnostics.add("E0203", name.span, help=help, text=text, name=name.id, meaning=words)
