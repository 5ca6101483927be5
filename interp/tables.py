"""Frozen dataclasses to JSON and back, so that a config is one value in code, on the command line and on disk."""

import dataclasses
import hashlib
import json
import math
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from interp.sites import Node, Site
from saes.errors import InputError


def to_json(value: Any) -> Any:
    """Plain JSON of a config value. A dataclass keeps its class name under `kind`, so a union can be read back."""
    if isinstance(value, (Site, Node, Path)):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{value} cannot be the value of an option; give a finite number")
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form; a config holds numbers, text, sites, tuples and dataclasses")


def from_json(kind: Any, data: Any) -> Any:
    """Read `to_json` back as the annotated type `kind`; raises InputError where the data does not fit."""
    origin = get_origin(kind)
    if kind in (Site, Node):
        return kind.parse(data)
    if kind is Path:
        return Path(data)
    if origin in (Union, types.UnionType):
        return _from_union(get_args(kind), data)
    if origin is Literal:
        if data not in get_args(kind):
            raise InputError(f"{data!r} is none of {', '.join(map(str, get_args(kind)))}")
        return data
    if origin is tuple:
        return tuple(from_json(get_args(kind)[0], item) for item in data)
    if dataclasses.is_dataclass(kind):
        return _from_fields(kind, data)
    if kind is float and isinstance(data, int):
        return float(data)
    return data


def _from_union(members: tuple[Any, ...], data: Any) -> Any:
    if data is None:
        return None
    if isinstance(data, dict):
        for member in members:
            if getattr(member, "__name__", None) == data.get("kind"):
                return from_json(member, data)
        raise InputError(f"{data.get('kind')!r} is none of {', '.join(getattr(m, '__name__', str(m)) for m in members)}")
    return from_json(next(m for m in members if m is not type(None)), data)


def _from_fields(kind: Any, data: dict[str, Any]) -> Any:
    hints = get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}
    unknown = set(data) - names - {"kind"}
    if unknown:
        raise InputError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}; its fields are {', '.join(sorted(names))}")
    return kind(**{name: from_json(hints[name], data[name]) for name in names if name in data})


def canonical(data: Any) -> str:
    """One text for equal data: keys sorted, no blanks."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash8(data: Any) -> str:
    """The first 8 hexadecimal digits of the sha256 of the canonical JSON."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()[:8]
