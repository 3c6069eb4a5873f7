"""Values of the types of this package, and their form in JSON: `current_usage` here is `currentUsage` there."""

import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, date, datetime
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Mismatch(ValueError):
    """A value isn't of the type that it has to be of."""


def camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def encode(value: object) -> str:
    """The JSON text of `value`: what JSON has, times, and objects of this package."""
    # NaN would be no JSON, or null, which is "unlimited" here.
    return json.dumps(value, default=_plain, allow_nan=False, ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return utc(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {camel(field.name): getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def utc(time: datetime) -> str:
    """A time as the API reads it."""
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone: write for example datetime.now(timezone.utc)")
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def decode(kind: type[T], value: object, place: str = "") -> T:
    """The value of type `kind` that stands in an answer. Fields that the type doesn't have are of a later version."""
    decoded: T = _decode(kind, value, place)
    return decoded


def _decode(kind: Any, value: object, place: str) -> Any:
    if kind is Any:
        return value
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, place)
    if origin is Literal:
        # Not only those that are known: a later version may have more.
        return _expect(str, value, place)
    if origin is tuple:
        return tuple(_decode(arguments[0], item, f"{place}[{n}]") for n, item in enumerate(_expect(list, value, place)))
    if origin is dict:
        return {
            name: _decode(arguments[1], item, f"{place}.{name}") for name, item in _expect(dict, value, place).items()
        }
    if is_dataclass(kind):
        return _decode_object(kind, _expect(dict, value, place), place)
    if kind in (datetime, date):
        return _decode_time(kind, _expect(str, value, place), place)
    if kind is float and type(value) is int:
        return float(value)
    return _expect(kind, value, place)


def _decode_union(kinds: tuple[Any, ...], value: object, place: str) -> Any:
    *others, last = kinds
    for kind in others:
        try:
            return _decode(kind, value, place)
        except Mismatch:
            continue
    return _decode(last, value, place)


def _decode_object(kind: Any, given: dict[str, object], place: str) -> Any:
    hints = _hints(kind)
    values = {}
    for field in fields(kind):
        name = camel(field.name)
        at = f"{place}.{name}" if place else name
        if name in given:
            values[field.name] = _decode(hints[field.name], given[name], at)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise Mismatch(f"the answer has no `{at}`")
    return kind(**values)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode_time(kind: Any, text: str, place: str) -> Any:
    try:
        return kind.fromisoformat(text)
    except ValueError:
        raise Mismatch(f"the answer's `{place}` is no {kind.__name__}") from None


def _expect(kind: Any, value: object, place: str) -> Any:
    # Not `isinstance`: a bool is no number here.
    if type(value) is not kind:
        names = {type(None): "null", dict: "an object", list: "an array"}
        wanted = names.get(kind, f"a {getattr(kind, '__name__', kind)}")
        found = names.get(type(value), f"a {type(value).__name__}")
        raise Mismatch(f"the answer's `{place}` is {found}, not {wanted}" if place else f"the answer is {found}")
    return value
