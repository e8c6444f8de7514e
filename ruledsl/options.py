"""Options of an entry of a table: the keyword-only arguments of its function, checked against their types."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ruledsl.errors import UserError, suggest


def checked_options(owner: str, function: Callable[..., object], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, converted to the types of the signature (a list to a tuple).

    `owner` names the entry in a message. Raises UserError for an option that does not exist or cannot have its value.
    """
    types = get_type_hints(function.func if isinstance(function, partial) else function)
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    checked = {}
    for option, value in options.items():
        if option not in known:
            raise UserError(f"{owner} has no option `{option}`", suggest(option, known))
        try:
            checked[option] = TypeAdapter(types[option]).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise UserError(f"option `{option}` of {owner} cannot be {value!r}: {problem}") from None
    return checked


def described(function: Callable[..., object]) -> str:
    """The first sentence of what a function says of itself."""
    return (inspect.getdoc(function) or "").partition("\n")[0]
