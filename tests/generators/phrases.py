"""Random well-typed expressions, as text, for the random rules of `generators.programs`.

Values are kept tame: what is divided by, or taken the logarithm or root of, stays away from zero, and powers are small.
A few are not, since infinities have to agree as well; backends disagree on what sign and max make of NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from ruledsl.ir.operations import OPERATIONS, Call, Operation
from ruledsl.ir.types import OUT, PER_UNIT, POST, PRE, SCALAR, Space, Type, activity, map_between

MAPS = (
    *[map_between(POST, PRE)] * 3,
    *[map_between(PRE, POST)] * 3,
    *[map_between(OUT, PRE)] * 2,
    map_between(OUT, POST),
    map_between(PRE, OUT),
    map_between(POST, OUT),
)
CONSTANTS = ("0.37", "1.13", "0.21", "2.7", "0.083", "1", "2", "0.5", "1e-3", "3")
WILD = 0.02  # how often a function is applied without care
LARGE = 30.0


def _tame(row: Operation) -> bool:
    """Whether a function of one number gives a value of moderate size for every number."""
    assert row.number is not None
    try:
        return all(abs(row.number(value)) <= LARGE for value in (-LARGE, -1.0, 0.0, 1.0, LARGE))
    except ValueError:
        return False


def _functions(arity: int) -> list[Operation]:
    """The elementwise functions of the language."""
    return [
        r for r in OPERATIONS.values() if r.elementwise and isinstance(r.written, Call) and r.written.arity == arity
    ]


TAME = tuple(f"{row.name}({{}})" for row in _functions(1) if _tame(row))
SMOOTH = tuple(f"{row.name}({{}})" for row in _functions(1) if _tame(row) and row.derivative is not None)
_UNARY = (*TAME, "(-({}))", "(({}) ** 2)", "clip({}, -0.83, 0.71)", "exp(tanh({}))")
_CAREFUL = ("log(1.3 + abs({}))", "sqrt(0.2 + abs({}))", "((0.6 + abs({})) ** 1.7)", "(1 / (0.7 + abs({})))")
_CARELESS = ("exp({})", "(({}) ** 3)", "log(abs({}))", "sqrt(abs({}))", "(1 / ({}))")
_BINARY = ("({} + {})", "({} - {})", "({} * {})", "({} / (0.7 + abs({})))")
_PLAIN_BINARY = len(_BINARY)
_BINARY += tuple(f"{row.name}({{}}, {{}})" for row in _functions(2))
_COMPARED = ("<", "<=", ">", ">=", "==", "!=")
_SIGNALS = {PRE: ("x",), POST: ("delta", "u", "y"), OUT: ("e", "target")}


@dataclass
class Names:
    """What a place in a rule can see; `signals` those that are there, `sizes` and `counters` the numbers.

    tensors   by name, without families; `families` are maps from `post[k]`
    lets      named values by name
    """

    signals: frozenset[str] = frozenset()
    tensors: dict[str, Type] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    lets: dict[str, Type] = field(default_factory=dict)
    params: tuple[str, ...] = ()
    counters: tuple[str, ...] = ("step", "epoch", "progress", "lr")
    sizes: tuple[str, ...] = ("fan_in", "fan_out", "batch_size", "classes")
    switches: tuple[str, ...] = ()
    optimizer: bool = False
    plain: bool = False  # no switch that a whole layer hangs on

    def of(self, type: Type) -> list[str]:
        """The names of tensors and lets of a type."""
        return [name for known in (self.tensors, self.lets) for name, found in known.items() if found == type]

    def with_lets(self, lets: dict[str, Type]) -> Names:
        """These names and more lets."""
        return replace(self, lets={**self.lets, **lets})


class Phrases:
    """Writes expressions of a wanted type; `depth` bounds how far they nest."""

    def __init__(self, random: Random, names: Names) -> None:
        self.random, self.names = random, names

    def of(self, type: Type, depth: int) -> str:
        """An expression of a type: scalar, map, parameter, activity or one number per unit."""
        if type.boolean:
            return self.condition(type.number, depth)
        makers: dict[str, Callable[[Type, int], str]] = {
            "scalar": lambda type, depth: self.scalar(depth),
            "map": self.map,
            "parameter": self.parameter,
            "vector": self.vector,
        }
        return makers[type.kind](type, depth)

    def chance(self, probability: float) -> bool:
        """True, this often."""
        return self.random.random() < probability

    # --- elementwise, of any type ---

    def _elementwise(self, type: Type, depth: int) -> str:
        if self.names.plain and type == SCALAR:  # nothing that a number out of bounds would hide
            left, right = self.of(SCALAR, depth - 1), self.of(SCALAR, depth - 1)
            return f"({left} {self.random.choice('+*') if left != right else '+'} {right})"
        kind = self.random.random()
        if kind < 0.3:
            pool: tuple[str, ...] = _CARELESS if self.chance(WILD) else _CAREFUL if self.chance(0.3) else _UNARY
            pool = _UNARY[:-1] if self.names.plain else pool  # without bounds that hide what is beyond them
            return self.random.choice(pool).format(self.of(type, depth - 1))
        if kind < 0.8:
            pair = self._two(type, depth, self._partner)
            form = self.random.choice(_BINARY[:_PLAIN_BINARY] if self.names.plain else _BINARY)
            if self.chance(0.5) and "abs" not in form:
                pair.reverse()
            return form.format(*pair)
        # What the compiler knows the answer of has the type of one branch alone.
        switch = not self.names.plain and self.chance(0.5)
        condition = self.condition(SCALAR if switch else type, depth - 1)
        then, otherwise = self._two(type, depth, self.of if switch else self._partner)
        return f"(if {condition} then {then} else {otherwise})"

    def _two(self, type: Type, depth: int, second: Callable[[Type, int], str]) -> list[str]:
        """Two values; in a plain rule not the same one, so that nothing cancels."""
        first, other = self.of(type, depth - 1), second(type, depth - 1)
        for _ in range(20 if self.names.plain else 0):
            if first != other:
                break
            other = second(type, depth)
        return [first, other]

    def _partner(self, type: Type, depth: int) -> str:
        """What combines with a value of the type: the same, a scalar, or a vector with fewer axes."""
        if self.chance(0.35):
            return self.scalar(depth)
        if type.kind == "vector" and type.axes != PER_UNIT and self.chance(0.4):
            assert type.target is not None
            return self.reduced(type.target, depth)
        return self.of(type, depth)

    def condition(self, type: Type, depth: int) -> str:
        """A comparison of values of the type, or several of them."""
        if self.names.plain:
            return f"({self.of(type, 0)} {self.random.choice(('<', '>'))} 0.1)"
        if depth > 1 and self.chance(0.25):
            left, right = self.condition(type, depth - 1), self.condition(type, depth - 1)
            return f"({left} {self.random.choice(('and', 'or'))} {right})"
        if self.chance(0.15):
            return f"(not {self.condition(type, depth - 1)})" if depth > 0 else self._switch(type)
        right = "0" if self.chance(0.5) else self._partner(type, depth - 1)
        return f"({self.of(type, depth - 1)} {self.random.choice(_COMPARED[: 4 if right != '0' else 6])} {right})"

    def _switch(self, type: Type) -> str:
        if self.names.switches and type == SCALAR:
            return self.random.choice(self.names.switches)
        return f"({self.of(type, 0)} > 0)"

    # --- scalars ---

    def scalar(self, depth: int) -> str:
        """A number."""
        if depth <= 0 or self.chance(0.3):
            return self._number()
        if self.chance(0.4) and not self.names.optimizer:
            return self._summary(depth)
        if self.names.optimizer and self.chance(0.3):
            return (
                f"{self.random.choice(('norm', 'sq', 'mean', 'std'))}({self.parameter(self._type_of_p(), depth - 1)})"
            )
        return self._elementwise(SCALAR, depth)

    def _number(self) -> str:
        known = [*self.names.of(SCALAR), *self.names.params]
        if known and self.chance(0.5):
            return self.random.choice(known)
        if self.chance(0.2):
            return f"({self.random.choice((*self.names.counters, *self.names.sizes, '1'))} / 10)"
        return self.random.choice(CONSTANTS)

    def _summary(self, depth: int) -> str:
        if self.names.signals and self.chance(0.4):
            type = activity(self.random.choice(self._spaces()))
            if self.chance(0.5):
                return f"dot({self.of(type, depth - 1)}, {self.of(type, depth - 1)})"
            return f"sq({self.of(type, depth - 1)})"
        type = self.random.choice(MAPS)
        if self.chance(0.2):
            return f"(dot({self.of(type, depth - 1)}, {self.of(type, depth - 1)}) / 10)"
        return f"{self.random.choice(('norm', 'sq', 'mean', 'std'))}({self.of(type, depth - 1)})"

    def _spaces(self) -> list[Space]:
        return [space for space, names in _SIGNALS.items() if self.names.signals & set(names)]

    # --- vectors ---

    def vector(self, type: Type, depth: int) -> str:
        """An activity or one number per unit."""
        assert type.target is not None
        if type.axes == PER_UNIT:
            return self._per_unit(type, depth)
        if type != activity(type.target):
            return self._fewer_axes(type, depth)
        if depth <= 0:
            return self._signal(type)
        kind = self.random.random()
        if kind < 0.2:
            return self._signal(type)
        if kind < 0.45:
            return self._applied(type.target, depth)
        if kind < 0.55:
            axis = self.random.choice(("batch", "units", *(["positions"] if type.target != OUT else [])))
            return f"{self.random.choice(('center', 'normalize'))}({self.of(type, depth - 1)}, {axis})"
        if kind < 0.6 and type.target == POST and self.names.signals:
            return f"phi({self.of(type, depth - 1)})"
        if kind < 0.65 and type.target == PRE and "delta[k]" in self.names.signals:
            return self._gathered(depth)
        return self._elementwise(type, depth)

    def _signal(self, type: Type) -> str:
        """A signal or a let over the space; where there is none, one number per unit, spread over an activity."""
        assert type.target is not None
        pool = [name for name in _SIGNALS[type.target] if name in self.names.signals] + self.names.of(type)
        if pool:
            return self.random.choice(pool)
        other = self.random.choice(self._spaces())
        return self._apply(other, type.target, 0)

    def _applied(self, target: Space, depth: int) -> str:
        sources = [space for space in self._spaces() if space != target]
        return self._apply(self.random.choice(sources), target, depth) if sources else self._signal(activity(target))

    def _apply(self, source: Space, target: Space, depth: int) -> str:
        kind = map_between(source, target)
        shallow = 0 if self.chance(0.6) else depth - 1
        vector = self.vector(activity(source), depth - 1)
        if source != OUT and self.chance(0.1):
            return f"({self.map(kind, shallow)} @ mean({vector}, positions))"
        if OUT not in (source, target) and self.chance(
            0.1
        ):  # an average, and no activity of this batch, unless something is added
            return f"({self.map(kind, shallow)} @ mean({vector}, batch) + {self.vector(activity(target), 0)})"
        return f"({self.map(kind, shallow)} @ {vector})"

    def _gathered(self, depth: int) -> str:
        """`sum(k, ...)` over the layers downstream."""
        heard = self.random.choice(("delta[k]", "tanh(delta[k])", "center(delta[k], batch)", "2 * delta[k]"))
        if not self.names.families:
            return f"(sum(k, sq({heard})) * {self.of(activity(PRE), depth - 1)})"
        family = f"{self.random.choice(self.names.families)}[k]"
        maps = self.random.choice((family, family, f"sign({family})", f"({self._number()} * {family})"))
        return f"sum(k, {maps} @ ({heard}))"

    def _per_unit(self, type: Type, depth: int) -> str:
        pool = self.names.of(type)
        if depth <= 0 and pool:
            return self.random.choice(pool)
        if self.names.signals and self.chance(0.4 if pool else 1.0):
            assert type.target is not None
            value = f"mean({self.vector(activity(type.target), max(depth, 1) - 1)}, batch)"
            return value if type.target == OUT else f"{self.random.choice(('mean', 'std'))}({value}, positions)"
        if not pool:
            raise NoSuchValue(str(type))
        if self.chance(0.2):
            return f"{self.random.choice(('center', 'normalize'))}({self.of(type, depth - 1)}, units)"
        return self._elementwise(type, depth)

    def reduced(self, space: Space, depth: int) -> str:
        """A vector with fewer axes than an activity."""
        if not self.names.signals:
            return self.scalar(depth)
        units = Type("vector", target=space, axes=PER_UNIT)
        if self.names.of(units) and self.chance(0.3):
            return self._per_unit(units, depth)
        axes = ["batch", "units", *(["positions"] if space != OUT else [])]
        self.random.shuffle(axes)
        value = self.vector(activity(space), max(depth, 1) - 1)
        for axis in axes[: self.random.choice((1, 1, 1, 2))]:
            value = f"{self.random.choice(('mean', 'std'))}({value}, {axis})"
        return value

    def _fewer_axes(self, type: Type, depth: int) -> str:
        pool = self.names.of(type)
        if pool and self.chance(0.5):
            return self.random.choice(pool)
        assert type.target is not None
        value = self.vector(activity(type.target), depth - 1)
        for axis in sorted(activity(type.target).axes - type.axes):
            value = f"mean({value}, {axis})"
        return value

    # --- maps ---

    def map(self, type: Type, depth: int) -> str:
        """A map."""
        pool = [*self.names.of(type), *(f"{name}.T" for name in self.names.of(type.transposed))]
        if pool and (depth <= 0 or self.chance(0.3)):
            return self.random.choice(pool)
        far = {space for space in (type.source, type.target) if space is not None}
        heard = [space for space in self._spaces() if space in far]
        if len(heard) == 2 and self.chance(0.3 if pool else 1.0):
            return self._outer(type, depth)
        if depth > 0 and self.chance(0.15):
            return f"({self.map(type.transposed, depth - 1)}).T"
        if depth > 0 and pool and self.chance(0.1):
            return f"full_like({self.random.choice(pool)}, {self.scalar(depth - 1)})"
        if not pool:
            raise NoSuchValue(str(type))
        return self._elementwise(type, depth)

    def _outer(self, type: Type, depth: int) -> str:
        assert type.source is not None and type.target is not None
        after, before = (self.vector(activity(space), depth - 1) for space in (type.target, type.source))
        if self.chance(0.1):
            before = before if type.source == OUT else f"std({before}, positions)"
            after = after if type.target == OUT else f"mean({after}, positions)"
        return f"outer({after}, {before}{self.random.choice(('', ', mean=batch', ', mean=all'))})"

    # --- optimizers ---

    def _type_of_p(self) -> Type:
        return next(type for type in self.names.tensors.values() if type.kind == "parameter")

    def parameter(self, type: Type, depth: int) -> str:
        """A value like the parameter that an optimizer moves."""
        if depth <= 0 or self.chance(0.25):
            return self.random.choice([*self.names.of(type), "g"])
        return self._elementwise(type, depth)


class NoSuchValue(Exception):
    """Nothing that a place sees can make a value of the wanted type."""
