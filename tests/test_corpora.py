"""The corpora: what is wrong in `bad/` is said exactly so, what is in `good/` compiles and means the same everywhere.

`pytest --update-golden` writes the golden files of `bad/` anew.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import ruledsl
from ruledsl.checked import Checked
from ruledsl.diagnostics import Diagnostic, RuleError, render
from ruledsl.emit import emitter
from ruledsl.emit.backend import backend
from ruledsl.library import check_file
from ruledsl.messages import MESSAGES
from ruledsl.rule import Rule
from ruledsl.source import Source
from ruledsl.verification.executor import compare
from ruledsl.verification.geometries import CONVS, DENSE

HERE = Path(__file__).parent
BAD = sorted((HERE / "bad").glob("*.rule"))
GOOD = sorted((HERE / "good").glob("*.rule"))
BACKENDS = ("torch", "jax")
GEOMETRIES = (DENSE[0], *(conv for conv in CONVS if conv.name in ("stride", "everything")))

# Too long to be kept as files.
GENERATED = {
    "text_too_long": "# " + "x" * 1_000_000 + "\n",
    "text_of_too_many_words": "rule text_of_too_many_words {\n" + "+ " * 50_001 + "\n}\n",
}


def say(diagnostics: list[Diagnostic]) -> str:
    """Diagnostics as they are printed, files by their names alone."""
    shown = []
    for diagnostic in diagnostics:
        text = diagnostic.text or Source("")
        shown.append(render(replace(diagnostic, text=replace(text, name=Path(text.name).name))))
    return "\n\n".join(shown) + "\n"


def complaints(path: Path) -> list[Diagnostic]:
    """Everything that is said about a file, up to its compilation for both backends."""
    try:
        definitions, syntax = check_file(path)
    except RuleError as error:
        return error.diagnostics
    said = [*syntax, *(d for checked in definitions for d in checked.diagnostics)]
    for rule in rules(definitions):
        for name in BACKENDS:
            try:
                rule.compile(name)
            except RuleError as error:
                said += error.diagnostics
    return said


def rules(definitions: list[Checked]) -> list[Rule]:
    return [Rule(checked) for checked in definitions if checked.equations is not None and not checked.errors]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_rule_gives_exactly_these_diagnostics(path: Path, golden: Callable[[Path, str], None]) -> None:
    golden(path.with_suffix(".txt"), say(complaints(path)))


@pytest.mark.parametrize("name", GENERATED)
def test_a_text_beyond_the_limits_gives_exactly_these_diagnostics(
    name: str, tmp_path: Path, golden: Callable[[Path, str], None]
) -> None:
    path = tmp_path / f"{name}.rule"
    path.write_text(GENERATED[name])
    golden(HERE / "bad" / f"{name}.txt", say(complaints(path)))


def test_every_message_occurs_in_some_golden_file() -> None:
    said = "".join(path.read_text(encoding="utf-8") for path in (HERE / "bad").glob("*.txt"))
    # E0602 needs a backend that lacks an operation, and ours lack none: see the test below.
    assert set(MESSAGES) - set(re.findall(r"[EW]\d{4}", said)) == {"E0602"}


def test_every_bad_rule_has_a_golden_file_and_every_golden_file_its_rule() -> None:
    expected = {path.stem for path in BAD} | set(GENERATED)
    assert {path.stem for path in (HERE / "bad").glob("*.txt")} == expected


def test_a_backend_that_lacks_an_operation_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = replace(backend("torch"), name="lacking", operations={})
    monkeypatch.setattr(emitter, "backend", lambda name: lacking)
    rule = ruledsl.parse("rule r {\n  feedback send = tanh(x)\n}")
    with pytest.raises(RuleError, match=r"E0602.*the lacking backend has no way to write `tanh`"):
        rule.compile("lacking")


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_rule_checks_without_a_word(path: Path) -> None:
    definitions, syntax = check_file(path)
    assert say([*syntax, *(d for checked in definitions for d in checked.diagnostics)]) == "\n"
    assert definitions


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_rule_computes_what_it_means(path: Path, name: str) -> None:
    executor = import_module(f"ruledsl_{name}.executor").executor
    for rule in rules(check_file(path)[0]):
        program = rule.compile(name)
        for geometry in GEOMETRIES:
            with np.errstate(all="ignore"):
                found = compare(program, rule.lowered, executor, geometry, "float64")
            assert [deviation for deviation in found if not deviation.within] == []


def test_what_is_emitted_passes_ruff(tmp_path: Path) -> None:
    everything = [rule for path in GOOD for rule in rules(check_file(path)[0])]
    everything += [ruledsl.load(name) for name in ruledsl.names()]
    for rule in everything:
        for name in BACKENDS:
            (tmp_path / f"{name}_{rule.name}.py").write_text(rule.compile(name).source, encoding="utf-8")
    config = str(HERE.parent / "pyproject.toml")
    command = [sys.executable, "-m", "ruff", "check", "--config", config, "--ignore", "SIM300", str(tmp_path)]
    ruff = subprocess.run(command, capture_output=True, text=True)  # SIM300 takes `B`, a matrix, for a constant
    assert ruff.returncode == 0, ruff.stdout


def test_the_same_text_gives_the_same_bytes() -> None:
    for path in GOOD:
        first, second = (rules(check_file(path)[0]) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            for name in BACKENDS:
                assert one.compile(name).source == other.compile(name).source
