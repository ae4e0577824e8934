"""TOML and frozen dataclasses: a section is a dataclass, a key one of its fields, and nothing is converted silently."""

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

from engram_cli.errors import RecipeError


def read_section(kind: type[Any], document: Mapping[str, Any], prefix: str = "") -> Any:
    """A dataclass from a section of TOML; `prefix`, ending in a dot, names it in messages.

    Raises RecipeError for a key that is not known, with the nearest that is, and for a value of another type.
    """
    hints = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    values = {}
    for key, value in document.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean `{prefix}{near[0]}`?" if near else f"known are {', '.join(known)}"
            raise RecipeError(f"a recipe has only known keys, but `{prefix}{key}` is not one; {hint}")
        if dataclasses.is_dataclass(hint_type := hints[key]):
            if not isinstance(value, dict):
                raise RecipeError(f"`{prefix}{key}` is a section, but it is {value!r}; write [{key}] and its keys below")
            values[key] = read_section(hint_type, value, f"{prefix}{key}.")  # type: ignore[arg-type]
        else:
            values[key] = _value(hint_type, value, f"{prefix}{key}")
    return kind(**values)


def _value(kind: Any, value: Any, key: str) -> Any:
    """`value` as `kind`: a float takes whole numbers too, a tuple takes one number too; nothing else is converted."""
    if get_origin(kind) is tuple:
        return tuple(_value(get_args(kind)[0], item, key) for item in (value if isinstance(value, list) else [value]))
    if kind is float and type(value) is int and abs(value) < 1 << 1000:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
        raise RecipeError(f"`{key}` is {names[kind]}, but the recipe says {value!r}; change it")
    return value


def as_toml(value: Any) -> str:
    """A setting as TOML; what TOML and JSON share is written as JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False).replace("\x7f", "\\u007f")
