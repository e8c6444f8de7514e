"""Configurations as TOML: reading, settings from the command line, writing with each field's meaning beside it."""

from __future__ import annotations

import copy
import json
import reprlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ruledsl.errors import UserError, suggest
from ruledsl.training import presets
from ruledsl.training.config import Config, OptimizerConfig, ParameterSchedule


def read_config(
    path: Path | None = None, settings: Iterable[str] = (), preset: str | None = None, **flags: Any
) -> Config:
    """The configuration of a TOML file, changed by `a.b=value` settings and by flags given as nested mappings.

    preset  what all of this changes, by its name; left out, `default`

    Flags that are None are left out. Where the rule is known, what `rules` says of it goes over the rest, but for what
    is given after it: a file's settings go over those that a preset has for a rule. Raises UserError that names every
    field that is wrong.
    """
    text = _read(path) if path else ""
    values = _parsed(text, f"the configuration {path}")
    origins = [_Origin("", {name: value}) for name, value in flags.items() if value is not None]
    origins += [_Origin(f"--set '{each}': ", parse_setting(each)) for each in settings]
    if path:
        origins.insert(0, _Origin(f"{path}:", values, text))
    preset = preset or "default"
    origins.insert(0, _Origin(f"the preset {preset}, line ", presets.values(preset), presets.text(preset)))
    values = {}
    for origin in origins:
        for own in _sections_of_rules(values).values():
            _forget(own, origin.values)
        _merge(values, copy.deepcopy(dict(origin.values)))
    if "rule" in values and _sections_of_rules(values):
        _merge(values, values.pop("rules", {}).get(Path(str(values["rule"])).stem, {}))
    # Of the patterns of layers the first that fits counts: what is asked for in the call comes before the file.
    layers = values.get("layers")
    if isinstance(layers, dict):
        call = [origin.values for origin in origins if not origin.text]
        named = [change["layers"] for change in call if isinstance(change.get("layers"), Mapping)]
        asked = [pattern for given in named for pattern in given]
        values["layers"] = {pattern: layers[pattern] for pattern in dict.fromkeys((*asked, *layers))}
    return make_config(values, origins)


def _sections_of_rules(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is said of single rules; nothing where that is none, which is for `make_config` to say."""
    rules = values.get("rules", {})
    sound = isinstance(rules, dict) and all(isinstance(own, dict) for own in rules.values())
    return rules if sound else {}


def changed(config: Config, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> Config:
    """A configuration with other fields, then with values by their paths. Raises UserError that names the field."""
    values = config.model_dump(exclude_unset=True) | dict(fields)
    for path, value in settings.items():
        _merge(values, _nested(_names(path), value))
    return make_config(values)


@dataclass(frozen=True)
class _Origin:
    """Where values come from: a file with its text, or a part of the call."""

    label: str
    values: Mapping[str, Any]
    text: str = ""

    def place(self, path: Sequence[str]) -> str | None:
        """How a message names the place of a value; None if it isn't from here."""
        if not _has(self.values, path):
            return None
        return f"{self.label}{_line(self.text, path)}: " if self.text else self.label


def for_rule(config: Config, rule: str) -> Config:
    """A configuration with what it says of this rule. Raises UserError that names the field."""
    values = config.model_dump(exclude_unset=True)
    _merge(values, values.pop("rules", {}).get(Path(rule).stem, {}))
    return make_config(values)


def from_root(rule: str) -> str:
    """The path of a rule's file from the root of the file system; the name of a rule of the library stays."""
    return str(Path(rule).absolute()) if rule.endswith(".rule") else rule


def anchored(config: Config) -> Config:
    """A configuration that means the same in every folder: the paths in it from the root of the file system."""

    def named(section: OptimizerConfig) -> OptimizerConfig:
        return section.model_copy(update={"name": from_root(section.name)})

    options, folder = dict(config.data.options), config.data.folder
    if isinstance(options.get("file"), str) and Path(options["file"]).is_file():
        options["file"] = str(Path(options["file"]).absolute())
    data = config.data.model_copy(update={"options": options, "folder": folder and folder.absolute()})
    layers = {pattern: one.model_copy(update={"rule": from_root(one.rule)}) for pattern, one in config.layers.items()}
    return config.model_copy(
        update={
            "rule": from_root(config.rule),
            "output": config.output and from_root(config.output),
            "constraints": [from_root(name) for name in config.constraints],
            "constraint_parameters": {from_root(name): own for name, own in config.constraint_parameters.items()},
            "layers": layers,
            "optimizer": named(config.optimizer),
            "optimizers": {name: named(one) for name, one in config.optimizers.items()},
            "data": data,
        }
    )


def make_config(values: Mapping[str, Any], origins: Sequence[_Origin] = ()) -> Config:
    """A configuration from nested mappings. Raises UserError that names every field that is wrong, and its place."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        said = list(dict.fromkeys(_worded(problem, origins) for problem in error.errors()))
        if len(said) == 1:
            raise UserError(*said[0]) from None
        lines = [f"{message}{f' ({help})' if help else ''}" for message, help in said]
        raise UserError("\n  ".join([f"the configuration has {len(said)} mistakes", *lines])) from None
    except RecursionError:
        raise UserError("the configuration is nested too deeply") from None


def parse_setting(setting: str) -> dict[str, Any]:
    """`optimizer.lr=0.1` as `{"optimizer": {"lr": 0.1}}`. What is not TOML is a text (`model.name=mlp`)."""
    path, equals, text = setting.partition("=")
    names = _names(path)
    if not (equals and names and all(names)):
        raise UserError(f"cannot read the setting `{setting}`", "write it as --set optimizer.lr=0.1")
    value: Any
    try:
        value = tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except tomllib.TOMLDecodeError:
        value = text.strip()
    except RecursionError:
        raise UserError("a setting is nested too deeply") from None
    return _nested(names, value)


def _nested(names: Sequence[str], value: Any) -> dict[str, Any]:
    for name in reversed(names):
        value = {name: value}
    return value  # type: ignore[no-any-return]


def _names(path: str) -> list[str]:
    """The parts of a path, which TOML may quote: `layers."block1.*".rule`."""
    if '"' not in path:
        return [name.strip() for name in path.split(".")]
    try:
        inner: Any = tomllib.loads(f"{path} = 0")
    except tomllib.TOMLDecodeError:
        return []
    names: list[str] = []
    while isinstance(inner, dict) and inner:
        names.append(next(iter(inner)))
        inner = inner[names[-1]]
    return names


def to_toml(config: BaseModel) -> str:
    """The configuration as TOML that `read_config` reads back, each field with its description. None is left out."""
    return "\n".join(_sections(config, ())).lstrip("\n") + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"the configuration {path} is not valid TOML: {error}") from None


def _parsed(text: str, what: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{what} is not valid TOML: {error}") from None
    except RecursionError:
        raise UserError(f"{what} is nested too deeply") from None


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as pairs of paths and values: `optimizer.lr`, 0.1."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _has(values: Any, path: Sequence[str]) -> bool:
    for name in path:
        if isinstance(values, list):  # of an entry, the place of its list
            return True
        if not isinstance(values, Mapping) or name not in values:
            return False
        values = values[name]
    return True


def _line(text: str, path: Sequence[str]) -> int:
    """The line of a TOML text, from 1, behind which there is a value: the parser itself says where."""
    lines = text.splitlines()
    for number in range(1, len(lines)):
        try:
            values = tomllib.loads("\n".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue
        if _has(values, path):
            return number
    return len(lines)


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, change in changes.items():
        if isinstance(change, Mapping) and isinstance(values.get(name), dict):
            _merge(values[name], change)
        else:
            values[name] = dict(change) if isinstance(change, Mapping) else change


def _forget(values: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Take out what is given elsewhere; of something that has a name, all where that is given."""
    if "name" in given:
        values.clear()
    for name in values.keys() & given.keys():
        if isinstance(values[name], dict) and isinstance(given[name], Mapping):
            _forget(values[name], given[name])
        else:
            del values[name]


def _worded(problem: Any, origins: Sequence[_Origin]) -> tuple[str, str | None]:
    path = [str(part) for part in problem["loc"]]
    if path[:1] == ["parameters"]:
        # pydantic adds which kind of value it tried: a number or a schedule. Only a field of the latter is a place.
        path[2:] = [part for part in path[2:] if part in ParameterSchedule.model_fields]
    place = next((found for each in reversed(origins) if (found := each.place(path)) is not None), "")
    field = ".".join(path)
    if problem["type"] == "extra_forbidden":
        section = _section(path[:-1])
        elsewhere = [known for known in _fields(Config) if known.rpartition(".")[2] == path[-1]]
        nearest = f"did you mean `{elsewhere[0]}`?" if elsewhere else suggest(path[-1], section.model_fields)
        where = f" in [{'.'.join(path[:-1])}]" if path[:-1] else ""
        return f"{place}the configuration has no field `{path[-1]}`{where}", nearest
    described = _section(path[:-1]).model_fields.get(path[-1]) if path else None
    help = described.description if described else None
    given = reprlib.repr(problem["input"])
    return f"{place}the setting {field} cannot be {given}: {problem['msg'].removeprefix('Value error, ')}", help


def _fields(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every field by its path, those of sections too."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")


def _section(path: list[str]) -> type[BaseModel]:
    """The model of a section; the innermost one that exists."""
    section: type[BaseModel] = Config
    for name in path:
        if name not in section.model_fields:
            continue  # a key of a mapping of sections
        annotation = section.model_fields[name].annotation
        for inner in (annotation, *get_args(annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                section = inner
    return section


def _sections(section: BaseModel, path: tuple[str, ...]) -> Iterator[str]:
    later: list[tuple[str, BaseModel]] = []
    if path:
        title = f"  # {section.__doc__.strip().splitlines()[0]}" if section.__doc__ else ""
        yield f"\n[{'.'.join(map(_key, path))}]{title}"
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            later.append((name, value))
        elif isinstance(value, dict) and value and all(isinstance(inner, BaseModel) for inner in value.values()):
            later += [(f"{name}.{key}", inner) for key, inner in value.items()]
        elif value is not None:
            yield f"{name} = {_value(value)}  # {field.description}"
    for name, inner in later:
        yield from _sections(inner, (*path, *name.split(".", 1)))


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str() | Path():
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case BaseModel():
            return _value(value.model_dump())
        case dict():
            return f"{{ {', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())} }}" if value else "{}"
    raise TypeError(f"{value!r} has no form in TOML")


def _key(key: str | int) -> str:
    key = str(key)
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _value(key)
