"""Instructions on lists of tensors as statements, in place where no value is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ruledsl.emit.line_breaking import WIDTH
from ruledsl.emit.naming import Names

COMMUTATIVE = frozenset(("add", "mul", "maximum", "minimum"))
OUT_OF_PLACE = frozenset(("norm",))
NOUNS = {
    "abs": "sizes",
    "add": "sums",
    "addcdiv": "sums",
    "addcmul": "sums",
    "div": "ratios",
    "mul": "products",
    "neg": "negatives",
    "norm": "norms",
    "pow": "powers",
    "reciprocal": "inverses",
    "sign": "signs",
    "sqrt": "roots",
    "sub": "differences",
}
"""What a list is called that holds the values of an operation, where the author gave them no name."""


@dataclass(frozen=True)
class ListForms:
    """How a backend writes instructions on lists.

    call      of an operation; `in_place`: where the result takes the place of the first list
    copy      copies the tensors of a list into those of another one
    scale     what is given to an addition that multiplies its second list
    """

    call: str
    in_place: str
    copy: str
    scale: str


@dataclass(eq=False)
class Value:
    """A list of tensors.

    wish      what the author calls it; `noun`: what it is called else
    held      the name of the parameter or state whose tensors these are; None for new ones
    """

    scalar: bool
    wish: str
    noun: str = "values"
    held: str | None = None
    variable: str = ""
    last_read: int = -1


@dataclass
class Instruction:
    """`result = operation(operands, more)`, on lists.

    operation  `neg abs exp log tanh sqrt sign reciprocal norm` of one list; `add sub mul div pow maximum minimum` of
               two, or of a list and numbers in `more`, as `clamp_min` and `clamp_max`; `addcmul`, `addcdiv`: the first
               list plus the product (the ratio) of the two others, times `more`
    loop       writes a comprehension that stands in its place, when the variables of the operands are known
    """

    operation: str
    operands: list[Value]
    result: Value
    more: str = ""
    loop: Callable[[], str] | None = None


@dataclass
class Block:
    """What computes one equation: a comment, and its instructions, from `start` on.

    number   writes a list of numbers instead, when the variables of the `operands` that it reads are known
    """

    comment: str
    start: int
    end: int
    number: Callable[[], str] | None = None
    operands: list[Value] = field(default_factory=list)


class Statements:
    """Chooses a place and a name for every value.

    A result takes the place of its first operand where nothing reads that one afterwards: of a list made here, or of
    the parameter or state that the result ends in.

    results   what is stored, by the name of a parameter or state
    kept      what is read when all is computed
    known     names that are lists already
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        blocks: Sequence[Block],
        results: Mapping[str, Value],
        kept: Iterable[Value],
        names: Names,
        forms: ListForms,
        known: frozenset[str],
    ) -> None:
        self.instructions, self.blocks, self.results = instructions, blocks, results
        self.names, self.forms, self.known = names, forms, known
        self.taken: set[str] = set()
        for index, instruction in enumerate(instructions):
            for operand in instruction.operands:
                operand.last_read = index
        for block in blocks:
            for operand in block.operands:
                operand.last_read = max(operand.last_read, block.start)
        for value in (*results.values(), *kept):
            value.last_read = len(instructions)
        self.place, self.named = self._places(), self._named()

    def lines(self) -> list[str]:
        """The statements, for the body of a method."""
        written = [self._written(index, instruction) for index, instruction in enumerate(self.instructions)]
        lines: list[str] = []
        for block in self.blocks:
            if block.comment and block.end > block.start:
                lines.append(self._comment(block))
            lines += [block.number()] if block.number else []
            lines += written[block.start : block.end]
        for target, value in self.results.items():
            if value.variable != target:
                lines.append(self.forms.copy.format(target, value.variable))
        return lines

    def _places(self) -> dict[int, str]:
        """By value, the tensor in whose place it can be computed, going back from what is stored there."""
        place: dict[int, str] = {}
        for target, value in self.results.items():
            if value.held is None:
                place.setdefault(id(value), target)
        for index in range(len(self.instructions) - 1, -1, -1):
            instruction = self.instructions[index]
            ends_in = place.get(id(instruction.result))
            if ends_in and instruction.operands and instruction.loop is None:
                first = instruction.operands[0]
                if first.last_read == index and first.held in (None, ends_in):
                    place.setdefault(id(first), ends_in)
        return place

    def _named(self) -> dict[int, str]:
        """By value, what the list is called that it begins: by the last name in the row that shares its place."""
        names: dict[int, str] = {}
        for index in range(len(self.instructions) - 1, -1, -1):
            instruction = self.instructions[index]
            wish = names.get(id(instruction.result)) or instruction.result.wish
            if instruction.operation in ("div", "addcdiv") and instruction.operands[1:]:
                names.setdefault(id(instruction.operands[-1]), instruction.operands[-1].wish or "denominators")
            names[id(instruction.result)] = wish
            if instruction.operands and instruction.operands[0].last_read == index and wish:
                names.setdefault(id(instruction.operands[0]), instruction.operands[0].wish or wish)
        return names

    def _written(self, index: int, instruction: Instruction) -> str:
        operands, result = instruction.operands, instruction.result
        if instruction.loop is not None:
            self._name(result)
            return f"{result.variable} = {instruction.loop()}"
        swappable = instruction.operation in COMMUTATIVE and len(operands) == 2 and not instruction.more
        if swappable and not self._free(index, operands[0], result) and self._free(index, operands[1], result):
            operands = operands[::-1]
        given = ", ".join([*(operand.variable for operand in operands), *([instruction.more] * bool(instruction.more))])
        if instruction.operation not in OUT_OF_PLACE and self._free(index, operands[0], result):
            result.variable, result.held = operands[0].variable, operands[0].held
            return self.forms.in_place.format(instruction.operation, given)
        self._name(result)
        return f"{result.variable} = {self.forms.call.format(instruction.operation, given)}"

    def _free(self, index: int, operand: Value, result: Value) -> bool:
        """Whether a result may overwrite an operand."""
        if operand.last_read != index or operand.scalar != result.scalar:
            return False
        return operand.held is None or self.place.get(id(result)) == operand.held

    def _name(self, value: Value) -> None:
        wish = self.named.get(id(value)) or value.wish or value.noun
        known = self.known - {value.wish}
        name, number = wish, 1
        while name in self.taken or name in known or (name != value.wish and not self.names.free(name)):
            number += 1
            name = f"{wish}_{number}"
        self.taken.add(name)
        value.variable = name

    def _comment(self, block: Block) -> str:
        value = self.instructions[block.end - 1].result
        target = value.held or next((name for name, result in self.results.items() if result is value), None)
        term = value.wish if value.wish != target else ""
        for formula in (block.comment, ""):
            words = " = ".join([word for word in (term, formula) if word])
            comment = f"# {target} becomes {words or 'its next value'}" if target else f"# {words}"
            if len(comment) <= WIDTH - 8:
                break
        return comment
