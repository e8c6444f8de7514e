"""Movers: what the optimizers that a rule names add to its ledger. There `p` is every parameter that they move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ruledsl.analysis.typed import TypedRule
from ruledsl.ir.equations import Equations
from ruledsl.language import tree
from ruledsl.locality.contract import allowances
from ruledsl.locality.flow import Entry, Ledger


def entries_of_movers(
    rule: TypedRule, equations: Equations, movers: Mapping[str, tuple[Equations, Ledger]]
) -> Iterator[Entry]:
    """The entries of every optimizer of a rule, once for each parameter that it moves.

    movers   their equations and ledgers, by slot

    An optimizer's own `locality` block speaks for it: what this allows has the optimizer's name as its `part`.
    """
    for slot, mover in rule.movers.items():
        own, ledger = movers[slot]
        allowed = allowances(mover, own)
        item = rule.flat.optimizers[slot][0]
        assert isinstance(item.item, tree.OptimizerChoice)
        moved = dict.fromkeys(e.target for e in equations.of("grad") if e.optimizer == slot)
        for entry in ledger:
            spoken = any(allowance.covers(entry) for allowance in allowed)
            for target in moved:
                yield replace(
                    entry,
                    source=target if entry.source == "p" else entry.source,
                    sink=target if entry.sink == "p" else f"{slot}.{entry.sink}",
                    phase=f"optimizer {mover.flat.name}",
                    place=item.place(item.item.span),
                    part=mover.flat.name if spoken else None,
                )
