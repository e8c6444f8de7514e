"""Random well-typed rules, as text: every construct of the language, from a seed.

    text = random_rule(7)       # always the same text for the same seed and version

The locality block is written from the ledger, so that a rule passes its own contract.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from random import Random

from generators.phrases import CONSTANTS, MAPS, SMOOTH, Names, NoSuchValue, Phrases
from ruledsl import library
from ruledsl.checked import Checked
from ruledsl.ir.types import OUT, PARAMETER, POST, PRE, SCALAR, Type, activity, map_between, per_unit
from ruledsl.rule import Rule
from ruledsl.source import Source

SIGNALS = frozenset(("x", "delta", "u", "y", "e", "target", "delta[k]"))
DRIVEN = frozenset(("x", "u", "y"))
_PLAIN = ("B", "C", "M", "V", "S", "m", "v", "alpha", "rate", "trace", "h", "f", "G", "Q", "R2", "B_hat")
_AWKWARD: tuple[str, ...] = (
    "layer",
    "torch",
    "jnp",
    "jax",
    "math",
    "key",
    "generator",
    "shape",
    "self",
    "grad_W",
    "next_B",
    "sum_all",
)
_AWKWARD += (
    "product",
    "outer_delta_x",
    "send_task",
    "print",
    "delta_at_k",
    "M_at_k",
    "phi_",
    "list",
    "zip",
    "T",
    "dims",
)
_SHAPED = ("normal(0, 1)", "uniform(-1, 1)", "signs(0.3)", "normal(0.1, sqrt(1 / fan_in))", "zeros()", "ones()")
_ONLY_MAPS = ("xavier()", "kaiming()", "orthogonal()")
ATTEMPTS = 20


class NoRule(Exception):
    """Many attempts made no rule: the generator and the checker disagree."""


@dataclass
class _Body:
    """A rule while it is being written."""

    random: Random
    lines: list[str] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)
    types: dict[str, Type] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    signal_lets: dict[str, Type] = field(default_factory=dict)  # only where signals are
    taken: set[str] = field(default_factory=set)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def new_name(self) -> str:
        while True:
            name = self.random.choice(_AWKWARD if self.chance(0.12) else _PLAIN)
            if self.chance(0.3):
                name += str(self.random.randrange(10))
            if name not in self.taken:
                self.taken.add(name)
                return name

    def at(self, signals: Iterable[str], lets: bool = True) -> Phrases:
        names = replace(self.names, signals=frozenset(signals))
        return Phrases(self.random, names.with_lets(self.signal_lets) if lets else names)


MEANS = ("", ", mean=batch", ", mean=all")


def random_rule(seed: int, plain: bool = False) -> str:
    """The text of a random rule that has no errors, locality block included.

    A `plain` one has no switches that a whole layer hangs on, and no weights that start from zero: what it says
    happens.
    """
    for attempt in range(ATTEMPTS):
        text = draft(Random(f"{seed}/{attempt}"), plain)
        checked = _check(text)
        if checked is None:
            continue
        allowed = dict.fromkeys(f"  allow {entry.flow} -> {entry.sink}" for entry in checked.ledger)
        return text if not allowed else text.rstrip()[:-1] + "locality {\n" + "\n".join(allowed) + "\n}\n}\n"
    raise NoRule(f"seed {seed}")


def parsed(seed: int, plain: bool = False) -> Rule:
    """The random rule of a seed, checked. Raises RuleError where it has errors, which would be a bug."""
    return library.parse(random_rule(seed, plain), f"random_{seed}")


def _check(text: str) -> Checked | None:
    """Where all that is wrong is the contract; None for the few rules that say nothing (`0 > 1`, E0404)."""
    found, syntax = library.check_all(Source(text))
    errors = [d for d in (*syntax, *found[-1].diagnostics) if d.severity == "error" and d.code != "E0501"]
    unlucky = {"E0229", "E0403", "E0404", "E0302", "E0211"}
    if any(d.code not in unlucky for d in errors):
        raise AssertionError(f"the generator wrote a rule with errors: {errors[0].code} {errors[0].message}\n{text}")
    return None if errors else found[-1]


def draft(random: Random, plain: bool = False) -> str:
    """A rule without its locality block, or with an unlucky constant in it."""
    while True:
        try:
            kind = random.random()
            if plain:
                return _rule(random, with_constraint=False, plain=True)
            return _optimizer(random) if kind < 0.06 else _rule(random, with_constraint=kind < 0.18)
        except NoSuchValue:
            continue


# --- rules ---


def _rule(random: Random, with_constraint: bool, plain: bool = False) -> str:
    body = _Body(random)
    body.names.plain = plain
    body.names.tensors = {"W": map_between(PRE, POST), "b": per_unit(POST)}
    _parameters(body)
    _declarations(body)
    align = body.chance(0.4)
    if align:
        body.lines.append(f"optimizer align = {random.choice(('sgd(lr = 0.1)', 'adam(lr = 0.01)', 'sgd()'))}")
    _lets(body)
    _feedback(body)
    weights = ["W", "b", *(name for name, kind in body.kinds.items() if kind == "weight")]
    states = [name for name, kind in body.kinds.items() if kind == "state"]
    _updates(body, weights, states, SIGNALS, align)
    if body.chance(0.4):
        _phase(body, weights, states, align)
    if body.chance(0.3):
        inner = replace(body, lines=[], signal_lets={})
        _assignments(inner, [*weights, *states], frozenset(), 0.25)
        if inner.lines:
            body.lines.append(_block("after step", inner.lines))
    if with_constraint:
        body.lines.append("use held" + random.choice(("", "()", "(most = 0.7)")))
    random.shuffle(body.lines[: len(body.lines) // 2])
    constraint = _constraint(random) if with_constraint else ""
    return constraint + _block('rule random "A random rule"', body.lines) + "\n"


def _block(head: str, lines: list[str]) -> str:
    return head + " {\n" + "\n".join(lines) + "\n}"


def _parameters(body: _Body) -> None:
    for _ in range(body.random.randrange(3)):
        name = body.new_name()
        value = body.random.choice(CONSTANTS)
        static = "static " if body.chance(0.3) else ""
        interval = body.random.choice(("", " in [0, inf)", ' in (0, 10] "a rate"'))
        body.lines.append(f"{static}param {name} = {value}{interval}")
        body.names.params = (*body.names.params, name)
    if body.chance(0.4):
        name = body.new_name()
        body.lines.append(f"static param {name} = {body.random.choice(('true', 'false'))}")
        body.names.switches = (*body.names.switches, name)


def _declarations(body: _Body) -> None:
    for _ in range(body.random.randint(1, 5)):
        kind = body.random.choice(("weight", "weight", "fixed", "fresh", "state", "state"))
        if kind in ("fixed", "fresh") and body.chance(0.15):
            name = body.new_name()
            body.lines.append(f"{kind} {name} : post[k] -> pre ~ {body.random.choice(('kaiming()', 'normal(0, 1)'))}")
            body.names.families = (*body.names.families, name)
            continue
        spaces = [per_unit(space) for space in (PRE, POST, OUT)]
        type = body.random.choice((*MAPS, *spaces, *([SCALAR] if kind == "state" else [])))
        written = str(type)
        if kind in ("weight", "fresh") or (kind == "fixed" and body.chance(0.5)) or body.chance(0.2):
            initial = "~ " + body.random.choice(
                (*(_SHAPED[:2] if body.names.plain else _SHAPED), *(_ONLY_MAPS if type.kind == "map" else ()))
            )
        else:
            seen = {name: known for name, known in body.names.tensors.items() if body.kinds.get(name) != "fresh"}
            sight = replace(body.names, tensors=seen, counters=(), sizes=("fan_in", "fan_out"))
            try:
                initial = "= " + Phrases(body.random, sight).of(type, body.random.randrange(3))
            except NoSuchValue:
                initial = "= " + body.random.choice(CONSTANTS)
            if body.chance(0.3):
                initial = "~ normal(0, 1)" if body.names.plain else "= 0"
        name = body.new_name()
        body.lines.append(f"{kind} {name} : {written} {initial}")
        body.kinds[name] = kind
        body.names.tensors = {**body.names.tensors, name: type}


def _lets(body: _Body) -> None:
    for _ in range(body.random.randrange(4)):
        name, type = body.new_name(), body.random.choice((SCALAR, activity(PRE), activity(POST), activity(OUT), *MAPS))
        if body.chance(0.2) and not (body.names.plain and type == SCALAR):
            type = type.condition
        body.lines.append(f"let {name} = {body.at(SIGNALS).of(type, body.random.randint(1, 3))}")
        body.signal_lets = {**body.signal_lets, name: type}


def _feedback(body: _Body) -> None:
    phrases = body.at(SIGNALS)
    common = ["W.T @ delta", "0.3 * delta_W", f"{phrases.map(map_between(POST, PRE), 1)} @ delta"]
    common += [f"{phrases.map(map_between(OUT, PRE), 1)} @ e", phrases.vector(activity(PRE), 3)]
    common[1] = f"({phrases.map(map_between(POST, PRE), 2)} * sign(W.T)) @ delta / norm(W)"
    if body.chance(0.9):
        body.lines.append(f"feedback send = {body.random.choice((*common, common[-1], common[-1]))}")
    if not body.names.plain and body.chance(0.1):
        condition = phrases.condition(SCALAR, 1)
        body.lines.append(f"when {condition} {{ feedback send = {phrases.vector(activity(PRE), 2)} }}")


# --- updates ---


def _updates(body: _Body, weights: list[str], states: list[str], signals: frozenset[str], align: bool) -> None:
    """Every weight in at most one way, some of it under a condition."""
    free = list(weights)
    body.random.shuffle(free)
    assigned = [name for name in free if body.chance(0.2)]
    learned = [name for name in free if name not in assigned]
    _assignments(body, [*assigned, *states], signals, 0.8)
    for name in learned:
        if body.chance(0.35):
            value = body.at(signals).of(body.names.tensors[name], body.random.randint(1, 3))
            if body.names.tensors[name].axes and body.chance(0.5):
                space = body.names.tensors[name].target
                assert space is not None
                value = f"total({body.at(signals).vector(activity(space), 2)}{body.random.choice(MEANS)})"
            by = " by align" if align and body.chance(0.4) else ""
            body.lines.append(_conditional(body, f"grad {name} = {value}{by}", signals))
    for _ in range(body.random.choice((0, 0, 1, 2))):
        chosen = body.random.sample(learned, min(len(learned), body.random.choice((1, 1, 2))))
        if chosen:
            by = " by align" if align else ""
            line = f"minimize {_energy(body, chosen, signals)} over {', '.join(chosen)}{by}"
            if not any(
                old.startswith("minimize") and old.split(" over ")[1] == line.split(" over ")[1] for old in body.lines
            ):
                body.lines.append(_conditional(body, line, signals))


def _conditional(body: _Body, line: str, signals: frozenset[str]) -> str:
    if body.names.plain or body.chance(0.8):
        return line
    condition = body.at(signals, lets=bool(signals)).condition(SCALAR, 2)
    if body.names.switches and body.chance(0.4):
        condition = body.random.choice(body.names.switches)
    return f"when {condition} {{ {line} }}"


def _assignments(body: _Body, names: list[str], signals: frozenset[str], probability: float) -> None:
    for name in names:
        if body.chance(probability):
            phrases = body.at(signals, lets=bool(signals))
            try:
                value = phrases.of(body.names.tensors[name], body.random.randint(1, 3))
            except NoSuchValue:
                continue
            space = body.names.tensors[name].target
            if body.names.tensors[name].axes and space is not None and signals and body.chance(0.5):
                value = f"total({phrases.vector(activity(space), 2)}{body.random.choice(MEANS)})"
            if body.chance(0.5):
                value = f"0.9 * {name} + 0.1 * {value}"
            body.lines.append(_conditional(body, f"{name} <- {value}", signals))


def _energy(body: _Body, over: list[str], signals: frozenset[str]) -> str:
    """A scalar that every weight in `over` moves."""
    phrases = body.at(signals)
    phrases.names = replace(phrases.names, signals=signals - {"delta[k]"}, families=())
    terms: list[str] = []
    for name in over:
        type = body.names.tensors[name]
        terms.append(_term(body, phrases, name, type))
        if body.chance(0.3):
            terms.append(_term(body, phrases, name, type))
    if body.chance(0.2):
        terms.append(phrases.scalar(2))
    scales = ["", "0.3 * ", f"{phrases._number()} * "]
    energy = " + ".join(body.random.choice(scales) + term for term in terms)
    if body.chance(0.2):
        name = body.new_name()
        body.lines.append(f"primitive {name} = {energy}")
        return name
    return energy


def _term(body: _Body, phrases: Phrases, name: str, type: Type) -> str:
    if type.kind != "map":
        return body.random.choice((f"sq({name})", f"dot({name}, {phrases.of(type, 1)})"))
    source, target = type.source, type.target
    assert source is not None and target is not None
    forms = [f"sq({name})", f"norm({name})", f"dot({name}, {phrases.map(type, 1)})"]
    forms += [f"std({name})", f"mean({name} * {phrases.map(type, 1)})", f"sq({name} - {phrases.map(type, 1)})"]
    spaces = phrases._spaces()
    if source in spaces and target in spaces:
        h, f = f"{name} @ {phrases.vector(activity(source), 1)}", phrases.vector(activity(target), 1)
        over = target
        if body.chance(0.5):
            over = source
            h, f = f"{name}.T @ {phrases.vector(activity(target), 1)}", phrases.vector(activity(source), 1)
        wraps: tuple[str, ...] = ("{}", "{}", *SMOOTH, "center({}, batch)", "normalize({}, units)")
        wraps += ("max({}, 0.1)", "clip({}, -1.2, 1.7)", "({}) ** 2", "({}) / (1 + abs({}))", "exp(tanh({}))")
        wraps += ("center({}, units)", "if {} > 0.2 then {} else 0.1", "phi({})" if over == POST else "{}")
        if OUT not in (source, target) and body.chance(0.1):
            h = h.replace(" @ ", " @ mean(", 1) + ", batch)"
            return body.random.choice((f"sq({h})", f"dot({h}, {f})", f"sq(tanh({h}))"))
        if body.names.plain:
            wraps = tuple(wrap for wrap in wraps if not wrap.startswith(("max", "clip", "if")))
        h = body.random.choice(wraps).replace("{}", h)
        forms += [f"-dot({f}, {h})", f"sq({h})", f"dot({h}, {f})", f"sq(mean({h}, batch))", f"sq({h} - {f})"] * 2
        forms += [f"sq(std({h}, batch))", f"dot({f}, mean({h}, units) * {f})"]
    return body.random.choice(forms)


def _phase(body: _Body, weights: list[str], states: list[str], align: bool) -> None:
    driven = body.chance(0.5)
    signals = DRIVEN if driven else SIGNALS
    inner = replace(body, lines=[], signal_lets={} if driven else dict(body.signal_lets))
    if driven:
        inner.lines.append(f"drive x = {body.random.choice(('normal(0, 1)', 'uniform(-1, 1)', 'signs(0.5)'))}")
    if body.chance(0.5):
        name, type = body.new_name(), body.random.choice((activity(PRE), activity(POST)))
        inner.lines.append(f"let {name} = {inner.at(signals).of(type, 2)}")
        inner.signal_lets[name] = type
    _updates(inner, weights, states, signals, align)
    body.lines.append(_block("phase mirror", inner.lines))
    entries = ("each step : task, mirror", "alternate : task, mirror", "first 2 epochs : mirror each step : task")
    body.lines.append("schedule { " + body.random.choice(entries) + " }")


# --- optimizers and constraints ---


def random_optimizer(seed: int) -> str:
    """The text of an optimizer. It need not be local."""
    return _optimizer(Random(seed))


def _optimizer(random: Random) -> str:
    body = _Body(random)
    body.names = Names(tensors={"p": PARAMETER}, sizes=(), optimizer=True)
    _parameters(body)
    for _ in range(random.randrange(3)):
        name, type = body.new_name(), random.choice((PARAMETER, SCALAR))
        body.lines.append(f"state {name} : {type} = {random.choice(('0', '1'))}")
        body.names.tensors = {**body.names.tensors, name: type}
        body.kinds[name] = "state"
    phrases = Phrases(random, body.names)
    lines = [f"{name} <- {phrases.of(body.names.tensors[name], 2)}" for name in body.kinds]
    lines += [f"p <- p - lr * {phrases.parameter(PARAMETER, 3)}"]
    if body.names.switches:
        lines.append(f"when {body.names.switches[0]} {{ {lines.pop(0)} }}")
    return _block("optimizer random", [*body.lines, *lines]) + "\n"


def _constraint(random: Random) -> str:
    body = _Body(random, taken={"most"})
    body.names = Names(tensors={"W": map_between(PRE, POST), "b": per_unit(POST)}, params=("most",), sizes=("fan_in",))
    body.lines.append("param most = 0.5")
    lines = [f"W <- {body.at(()).map(map_between(PRE, POST), 2)}"]
    if body.chance(0.5):
        name = body.new_name()
        body.lines.append(f"state {name} : pre -> post = {random.choice(('sign(W)', 'W', '0'))}")
        body.names.tensors = {**body.names.tensors, name: map_between(PRE, POST)}
        lines.append(f"{name} <- {body.at(()).map(map_between(PRE, POST), 2)}")
    return _block("constraint held", [*body.lines, _block("after step", lines)]) + "\n"
