"""The rows of a comparison: each rule, at each point of a grid of settings and parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from ruledsl.errors import UserError, suggest
from ruledsl.experiments.row import Row
from ruledsl.rule import Rule
from ruledsl.training import Config
from ruledsl.training.preparation import load_compiled, load_rule
from ruledsl.training.settings import changed, for_rule, parse_setting

COMMON = frozenset(("seed", "backend", "out", "rule", "rules", "output", "constraints", "layers", "data"))
"""Sections of the configuration that all runs of a comparison share."""
OF_BATCHES = frozenset(("batch_size", "batch_size_after", "test_batch_size"))
"""What each of them may have of its own in [data]."""
Grid = Mapping[str, Sequence[Any]]
"""By the name of a setting (`optimizer.lr`) or of a parameter of the rules, its values."""


def parse_grid(texts: Iterable[str]) -> dict[str, list[Any]]:
    """`optimizer.lr=0.01,0.1` as `{"optimizer.lr": [0.01, 0.1]}`. Raises UserError."""
    grid: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = (part.strip() for part in text.partition("="))
        listed = [value.strip() for value in values.split(",")]
        if not (name and equals and all(listed)):
            raise UserError(f"cannot read the grid `{text}`", "write it as --grid optimizer.lr=0.01,0.1")
        if name in grid:
            raise UserError(
                f"the grid has {name} twice", f"write it as --grid {name}={','.join(map(str, grid[name]))},{values}"
            )
        grid[name] = [_innermost(parse_setting(f"{name}={value}")) for value in listed]
    return grid


def rows_of(config: Config, rules: Sequence[str], grid: Grid) -> list[Row]:
    """A row for each rule and point, under labels that differ. Raises RuleError, UserError."""
    plain = [load_rule(name, {}) for name in rules]
    known = {name for rule in plain for name in rule.parameters}
    for name in config.parameters:
        if name not in known:
            raise UserError(f"none of these rules has a parameter `{name}`", suggest(name, known))
    for name in grid:
        _check(name, known)
    rows: list[Row] = []
    for name, rule in zip(rules, plain, strict=True):
        mine = {key: values for key, values in grid.items() if _is_setting(key) or key in rule.parameters}
        for point in _points(mine):
            rows.append(_row(config, name, rule, point, [row.label for row in rows]))
    return rows


def _check(name: str, parameters: Iterable[str]) -> None:
    """Raises UserError for what is no axis of a grid."""
    section = name.split(".")[0]
    if section in COMMON and name != "data.batch_size":
        help = "--seeds says how many seeds there are" if name == "seed" else None
        raise UserError(f"`{name}` is the same for all runs of a comparison: it has no place in a grid", help)
    if not _is_setting(name) and name not in parameters:
        near = suggest(name, {*parameters, *Config.model_fields})
        raise UserError(f"`{name}` is no setting, and none of these rules has a parameter of that name", near)


def _is_setting(name: str) -> bool:
    return name.split(".")[0] in Config.model_fields


def _row(config: Config, name: str, rule: Rule, point: Mapping[str, Any], taken: Sequence[str]) -> Row:
    own = {key: value for key, value in point.items() if not _is_setting(key)}
    settings = {key: value for key, value in point.items() if _is_setting(key)}
    config = _for_rule(config, name)
    parameters = {key: value for key, value in config.parameters.items() if key in rule.parameters} | own
    here = changed(config, {"rule": name, "parameters": parameters}, settings)
    loaded, program = load_compiled(name, here.first_parameters, config.backend)
    here = here.model_copy(update={"parameters": {**loaded.parameters, **here.schedules}})
    where = ", ".join(f"{key.split('.')[-1]}={_short(value)}" for key, value in point.items())
    label = f"{rule.name} ({where})" if where else rule.name
    again = sum(each == label or each.startswith(f"{label}-") for each in taken)
    return Row(f"{label}-{again + 1}" if again else label, name, loaded, program, here)


def _for_rule(config: Config, name: str) -> Config:
    """With what the configuration says of this rule. Raises UserError for what all runs of a comparison share."""
    own = for_rule(config, name)
    of_data = [field for field in type(config.data).model_fields if field not in OF_BATCHES]
    differing = [
        field for field in sorted(COMMON - {"rule", "rules", "data", "constraints"}) if _differ(own, config, field)
    ]
    differing += [f"data.{field}" for field in of_data if _differ(own.data, config.data, field)]
    if differing:
        raise UserError(
            f"[rules.{Path(name).stem}] sets {differing[0]}, which is the same for all runs of a comparison",
            "ruledsl train takes it; and so does --set, for all of them",
        )
    return own


def _differ(one: Any, other: Any, field: str) -> bool:
    return bool(getattr(one, field) != getattr(other, field))


def _points(grid: Grid) -> list[dict[str, Any]]:
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def _innermost(value: Any) -> Any:
    while isinstance(value, dict):
        (value,) = value.values()
    return value


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
