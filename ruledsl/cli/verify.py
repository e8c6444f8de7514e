"""`ruledsl verify`: run the compiled code, and compare it with what the rule means and what its ledger promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ruledsl.cli.main import FINE, RULE_HAS_ERRORS

if TYPE_CHECKING:
    from ruledsl.verification.verify import Row

MOST_FAILURES = 5  # of one check, shown


def command(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="A rule of the library, or a path.")],
    backend: Annotated[str | None, typer.Option("--backend", help="Whose code; by default that of all.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a parameter. May be repeated.")
    ] = None,
) -> None:
    """Check by machine that the compiled code means what the rule says, and reads no more than its ledger lists.

    The exit status is 0, or 1 where a check fails.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    import ruledsl
    from ruledsl.cli.compile import values
    from ruledsl.emit.backend import backend as find
    from ruledsl.errors import UserError
    from ruledsl.explain.terminal import table
    from ruledsl.verification.verify import several_steps, verify

    loaded = ruledsl.load(rule, **values(settings or []))
    chosen = [find(backend).name] if backend else _installed()
    if not chosen:
        raise UserError(
            "no compiled code can be run here: neither PyTorch nor JAX is installed",
            'pip install "ruledsl[torch]", or "ruledsl[jax]"',
        )
    rows: list[Row] = [] if loaded.kind == "optimizer" else [several_steps(loaded)]
    if len(chosen) == 1:
        rows += verify(loaded, chosen[0])
    else:  # each in a process of its own: much of the time is that of the frameworks' start
        with ProcessPoolExecutor(len(chosen), get_context("spawn")) as processes:
            waiting = [processes.submit(_rows, rule, settings or [], name) for name in chosen]
            for each in waiting:
                rows += each.result()
    shown = [
        [row.backend, row.check, str(row.tried), f"{row.largest:.1e}" if row.largest else "0", _verdict(row.failures)]
        for row in rows
    ]
    print(f"{loaded.kind} {loaded.name}: {loaded.verdict}")
    print(table(shown, ("backend", "check", "tried", "largest deviation", ""), right=(2, 3)))
    for row in rows:
        for failure in row.failures[:MOST_FAILURES]:
            print(f"\n{row.backend}, {row.check}:\n  {failure}")
        if len(row.failures) > MOST_FAILURES:
            print(f"  ... and {len(row.failures) - MOST_FAILURES} more")
    failed = sum(bool(row.failures) for row in rows)
    print(f"\n{len(rows)} checks, {failed} failed" if failed else f"\n{len(rows)} checks, all passed")
    raise typer.Exit(RULE_HAS_ERRORS if failed else FINE)


def _rows(rule: str, settings: list[str], backend: str) -> list[Row]:
    """What one backend's code is found to do."""
    import ruledsl
    from ruledsl.cli.compile import values
    from ruledsl.verification.verify import verify

    return list(verify(ruledsl.load(rule, **values(settings)), backend))


def _verdict(failures: list[str]) -> str:
    return f"FAILED {len(failures)}" if failures else "ok"


def _installed() -> list[str]:
    """The backends whose frameworks are there."""
    from ruledsl.emit.backend import backend, backends

    return [name for name in backends() if backend(name).runs_here]
