"""An experiment's ledger: the rules of its layers, its optimizers and constraints, each with what it adds.

What trains a network is more than one rule. Feedback alignment of which the last layer learns by backpropagation sends
`W.T @ delta` to the layer below; an optimizer that reads `norm(p)` tells every synapse a number about all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ruledsl.locality.flow import Entry, Ledger, Verdict

BACKPROP = "; with one hidden layer this is backpropagation itself"
Role = Literal["rule", "output rule", "optimizer", "constraint"]


@dataclass(frozen=True)
class Part:
    """One of the definitions that train a network.

    where    the layers that it acts on, in words; empty where these are all
    verdict  None where no ledger is at hand: of an optimizer of the framework's own
    """

    role: Role
    name: str
    verdict: Verdict | None
    ledger: Ledger = ()
    where: str = ""

    @property
    def flows(self) -> tuple[str, ...]:
        """`sign(W) -> send`, each once."""
        return tuple(dict.fromkeys(f"{entry.flow} -> {entry.sink}" for entry in self.ledger))

    def __str__(self) -> str:
        name = self.name if self.role in ("rule", "output rule") else f"{self.role} {self.name}"
        where = f" ({self.where})" if self.where else ""
        if self.verdict is None:
            return f"{name}{where}: not checked, since it came without a ledger"
        return f"{name}{where}: {'; '.join((self.verdict, *self.flows))}"


@dataclass(frozen=True)
class Experiment:
    """All parts, and what the network adds by itself.

    sends_back  the output rule sends what backpropagation sends, and no other layer sends to a neuron
    """

    parts: tuple[Part, ...]
    network: tuple[str, ...] = ()
    sends_back: bool = False

    @property
    def verdict(self) -> Verdict:
        """`nonlocal` where any part is."""
        return "nonlocal" if any(part.verdict == "nonlocal" for part in self.parts) else "local"

    def lines(self) -> Iterator[str]:
        """The verdict, a line for each part, and one for each thing that the network adds."""
        yield f"ledger: {self.verdict}"
        for part in self.parts:
            yield f"  {part}{BACKPROP if self.sends_back and part.role == 'output rule' else ''}"
        yield from (f"  {words}" for words in self.network)

    def additions(self) -> Iterator[str]:
        """What makes the whole nonlocal although its first rule is local."""
        first = self.parts[0].verdict if self.parts else None
        for part in self.parts[1:]:
            if part.verdict == "nonlocal" and first == "local":
                yield f"{part}{BACKPROP if self.sends_back and part.role == 'output rule' else ''}"

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "verdict": self.verdict,
            "ledger": [{"part": part.name, **_row(entry)} for part in self.parts for entry in part.ledger],
            "parts": [
                {
                    "role": part.role,
                    "name": part.name,
                    "where": part.where,
                    "verdict": part.verdict,
                    "flows": list(part.flows),
                }
                for part in self.parts
            ],
            "network": list(self.network),
        }


def _row(entry: Entry) -> dict[str, Any]:
    columns = ("source", "sink", "channel", "phase", "line", "column", "term", "count", "bits")
    return {name: getattr(entry, name) for name in columns}


def sends_back(ledger: Sequence[Part], hidden_layers: int) -> bool:
    """Whether all that reaches the hidden layer is `W.T @ delta`, from an output layer with a rule of its own."""
    outputs = [part for part in ledger if part.role == "output rule"]
    return hidden_layers == 1 and any("reverse(W) -> send" in part.flows for part in outputs)


def with_moved_thresholds(movers: Sequence[str], parts: Iterable[Ledger]) -> tuple[str, ...]:
    """What optimizers and constraints that move thresholds, by name, make of the signs that rules read."""
    read = dict.fromkeys(entry.source for ledger in parts for entry in ledger if entry.channel == "sign")
    if not movers or not read:
        return ()
    signs = ", ".join(f"sign({source})" for source in read)
    return (f"{', '.join(movers)} moves weights over the thresholds at which signs are read: {signs} tells values",)


def of_network(norms: bool, convolutions: bool) -> tuple[str, ...]:
    """What a network does by itself, whoever teaches it."""
    words = ["the network: batch normalisation pools over the batch"] * norms
    return (*words, *["the network: a convolution shares its weights over positions"] * convolutions)
