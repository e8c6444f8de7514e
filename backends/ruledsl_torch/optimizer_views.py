"""What the template of optimizers shows of a definition, in the words of PyTorch. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from ruledsl.emit.backend import Module
from ruledsl.emit.binding import Call
from ruledsl.emit.expressions import constant
from ruledsl.emit.in_place import ListForms
from ruledsl.emit.layout import bracketed
from ruledsl.emit.line_breaking import WIDTH
from ruledsl.emit.lists import Lists
from ruledsl.emit.naming import Names, camel_case
from ruledsl.emit.optimizers import CLOCK, Equations, aliases
from ruledsl.emit.views import called
from ruledsl.program import Tensor

OPTIONS = ("lr",)
FOREACH = ListForms(
    call="torch._foreach_{}({})",
    in_place="torch._foreach_{}_({})",
    copy="torch._foreach_copy_({}, {})",
    scale="alpha={}",
)


@dataclass(frozen=True)
class OptimizerView(Equations):
    """An optimizer: its options, its states, and how it moves one parameter, or a list of them."""

    name: str

    @property
    def names(self) -> Names:
        return self.module.names

    # --- what there is ---

    @cached_property
    def states(self) -> list[Tensor]:
        """What is kept for each parameter."""
        return [tensor for tensor, _ in self.starts]

    @property
    def counts(self) -> bool:
        """Whether anything reads `step`."""
        return "step" in self.read

    @property
    def options(self) -> list[str]:
        """Learning rate and parameters, as far as a step reads them."""
        return [name for name in (*OPTIONS, *self.module.binding.parameters) if name in self.read]

    @property
    def init(self) -> list[str]:
        """The lines of `__init__`, which sets the options of a group."""
        parameters = self.module.binding.parameters
        defaults = [f"{name}={constant(value)}" for name, value in parameters.items()]
        arguments = ["self", "params", "lr=0.001", *defaults, "*", "foreach=None"]
        lines = bracketed("def __init__(", arguments, "):", 4)
        options = [f'"{name}": {name}' for name in (*OPTIONS, *parameters)]
        call = f"    super().__init__(params, {{{', '.join(options)}}}, foreach)"
        if len(call) <= WIDTH - 4:
            return [*lines, call]
        made = bracketed("options = {", options, "}", 8)
        return [*lines, *(f"    {line}" for line in made), "    super().__init__(params, options, foreach)"]

    # --- a step ---

    @property
    def unpacked(self) -> list[str]:
        """Lines that read the options of a group, and the clock."""
        lines = []
        for names, holder in ((self.options, "group"), ([name for name in CLOCK if name in self.read], "self.clock")):
            values = [self._scalar(f'{holder}["{name}"]', name) for name in names]
            together = f"{', '.join(names)} = {', '.join(values)}"
            if len(together) <= WIDTH - 8:
                lines += [together] * bool(names)
            else:
                lines += [f"{name} = {value}" for name, value in zip(names, values, strict=True)]
        return lines

    def _scalar(self, text: str, name: str) -> str:
        return f"scalar({text})" if not self.plain and name in (*OPTIONS, *CLOCK) else text

    @property
    def started(self) -> list[str]:
        """Lines that make the first states of a parameter."""
        lines = ['state["step"] = scalar(0)'] if self.counts else []
        made = {tensor.name for tensor in self.states}
        for tensor, call in self.starts:
            source = self._source(tensor)
            given = [source if name == "generator" else self._given_to_start(name, made) for name in call.arguments]
            value = f"{call.function}({', '.join(given)})"
            if not tensor.space:
                value = f"scalar({value})"
            elif aliases(self.module.values[call.function]):
                value += ".clone()"
            lines.append(f'state["{tensor.name}"] = {value}')
        return lines

    def _given_to_start(self, name: str, made: set[str]) -> str:
        special = {"p": "p", "shape": "()", "step": "0.0"}
        if name in special:
            return special[name]
        if name in CLOCK:
            return f'self.clock["{name}"]'
        return f'state["{name}"]' if name in made else f'group["{name}"]'

    @cached_property
    def kept(self) -> list[str]:
        """The names in the state of a parameter that a step reads or writes."""
        touched = self.read | {call.result for call in self.moves}
        return [name for name in ("step", *(t.name for t in self.states)) if name in touched]

    def _held(self, name: str) -> str:
        """A state of a parameter, as an equation reads it."""
        if name not in self.numbers:
            return f'state["{name}"]'
        return f'number(state["{name}"])' if self.plain else f'state["{name}"]'

    @property
    def single(self) -> list[str]:
        """The lines of the loop over parameters."""
        given = {"g": "p.grad"} if "g" in self.read else {}
        given |= {"state": "self.state[p]"} if self.kept else {}
        lines = [f"{', '.join(given)} = {', '.join(given.values())}"] * bool(given)
        states = [name for name in self.kept if name in self.read or name not in self.numbers]
        if states:
            lines.append(f"{', '.join(states)} = {', '.join(map(self._held, states))}")
        lines += [f"{call.result} = {self._drawn(tensor, call)}" for tensor, call in self.draws]
        lines += [f"{call.result} = {called(call)}" for call in self.terms]
        return lines + self._stored

    def _drawn(self, tensor: Tensor, call: Call, p: str = "p") -> str:
        given = {"shape": "()", "generator": self._source(tensor, p), "p": p}
        return called(call, lambda name: given.get(name, name))

    @staticmethod
    def _source(tensor: Tensor, p: str = "p") -> str:
        """What a value of a parameter is drawn from."""
        return f'self.source({p}, "{tensor.stream}")'

    @property
    def _stored(self) -> list[str]:
        """Results are stored at once: before, those are computed that read what is stored."""
        lines, later = [], []
        assigned = {call.result for call in self.moves}
        for index, call in enumerate(self.moves):
            value = called(call)
            if call.result in self.numbers:
                lines.append(f'state["{call.result}"] = scalar({value})')
                continue
            if (aliases(self.module.values[call.function]) - {call.result}) & assigned:
                value += ".clone()"
            if any(call.result in other.arguments for other in self.moves[index + 1 :]):
                next_value = self.names.give(f"local next {call.result}", f"{call.result}_next")
                lines.append(f"{next_value} = {value}")
                later.append(f"{call.result}.copy_({next_value})")
            else:
                lines.append(f"{call.result}.copy_({value})")
        return lines + later

    @cached_property
    def lists(self) -> Lists:
        """The equations, on lists."""
        return Lists(self, FOREACH)

    @cached_property
    def together(self) -> list[str]:
        """The lines that move a list of parameters, up to where numbers are written back."""
        body = self.lists.lines()
        used = {*re.findall(r"\w+", " ".join([*body, *self.lists.numbers.values()]))}
        lines = ["g = [each.grad for each in p]"] * ("g" in used)
        counted = any(name in self.numbers for name in self.kept)  # numbers are written back one by one
        lines += ["states = [self.state[each] for each in p]"] * counted
        for name in self.kept:
            if name in used:
                alone = f'self.state[each]["{name}"] for each in p'
                lines.append(f"{name} = [{f'{self._held(name)} for state in states' if counted else alone}]")
        for tensor, call in self.draws:
            lines.append(f"{call.result} = [{self._drawn(tensor, call, 'each')} for each in p]")
        return lines + body


def optimizer_view(module: Module) -> OptimizerView:
    """The view of an optimizer, with a name for its class."""
    return OptimizerView(module, module.names.give("class of the optimizer", camel_case(module.rule) or "Optimizer"))
