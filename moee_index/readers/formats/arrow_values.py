"""Values of Arrow columns as values that JSON can hold, whatever their type.

Times become ISO 8601 text, also where Python cannot hold them; decimals whole numbers, floats where
these lose nothing, else text; bytes text, or bytes where they are not UTF-8.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from moee_index.readers.formats.records import as_json

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY = 86_400
_EPOCH = datetime.datetime(1970, 1, 1)
_EPOCH_DAY = _EPOCH.toordinal()


def plain_values(array: Any) -> list[Any]:
    """The values of a pyarrow array. NaN and infinities are None, as JSON knows none."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _of_extension(array)
    if pa.types.is_dictionary(kind):
        return plain_values(array.dictionary_decode())
    for is_kind, convert in _CONVERTERS:
        if is_kind(kind):
            return convert(array)
    return [str(scalar) if scalar.is_valid else None for scalar in array]  # as Arrow shows it


def _of_extension(array: Any) -> list[Any]:
    values = plain_values(array.storage)
    if array.type.extension_name != "arrow.uuid":
        return values
    stored = array.storage.to_pylist()
    return [None if value is None else str(UUID(bytes=value)) for value in stored]


def _as_they_are(array: Any) -> list[Any]:
    return list(array.to_pylist())


def _floats(array: Any) -> list[Any]:
    return [
        float(value) if value is not None and math.isfinite(value) else None
        for value in array.to_pylist()
    ]


def _texts(array: Any) -> list[Any]:
    """Text, and bytes; text that is not UTF-8 is bytes too."""
    try:
        values = array.to_pylist()
    except UnicodeDecodeError:
        values = [scalar.as_buffer().to_pybytes() if scalar.is_valid else None for scalar in array]
    return [_decoded(value) if isinstance(value, bytes) else value for value in values]


def _decoded(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _decimals(array: Any) -> list[Any]:
    return [None if value is None else _number(value) for value in array.to_pylist()]


def _number(value: Decimal) -> int | float | str:
    if value == value.to_integral_value():
        return int(value)
    return float(value) if Decimal(repr(float(value))) == value else str(value)


def _counts(array: Any) -> Iterator[int | None]:
    """The numbers that times are stored as."""
    width = pa.int32() if array.type.bit_width == 32 else pa.int64()
    return iter(array.view(width).to_pylist())


def _each(array: Any, shown: Callable[[int], Any]) -> list[Any]:
    return [None if value is None else shown(value) for value in _counts(array)]


def _dates(array: Any) -> list[Any]:
    per_day = 1 if array.type.bit_width == 32 else _DAY * 1000

    def shown(value: int) -> str:
        days = value // per_day
        try:
            return datetime.date.fromordinal(_EPOCH_DAY + days).isoformat()
        except (OverflowError, ValueError):
            return str(np.datetime64(days, "D"))

    return _each(array, shown)


def _times(array: Any) -> list[Any]:
    per_second = _PER_SECOND[array.type.unit]

    def shown(value: int) -> str:
        seconds, part = divmod(value, per_second)
        hours, rest = divmod(seconds, 3600)
        return f"{hours:02}:{rest // 60:02}:{rest % 60:02}{_fraction(part, per_second)}"

    return _each(array, shown)


def _timestamps(array: Any) -> list[Any]:
    unit, zone = array.type.unit, _zone(array.type.tz)

    def shown(value: int) -> str | None:
        seconds, part = divmod(value, _PER_SECOND[unit])
        try:
            moment = _EPOCH + datetime.timedelta(seconds=seconds)
            if zone is not None:
                moment = moment.replace(tzinfo=datetime.UTC).astimezone(zone)
        except OverflowError:
            far = np.datetime64(seconds, "s")
            offset = "+00:00" if zone else ""
            return None if np.isnat(far) else f"{far}{_fraction(part, _PER_SECOND[unit])}{offset}"
        text = moment.isoformat()
        return text[:19] + _fraction(part, _PER_SECOND[unit]) + text[19:]

    return _each(array, shown)


def _fraction(part: int, per_second: int) -> str:
    nanoseconds = part * (10**9 // per_second)
    if nanoseconds % 1000:
        return f".{nanoseconds:09}"
    return f".{nanoseconds // 1000:06}" if nanoseconds else ""


@lru_cache
def _zone(name: str | None) -> datetime.tzinfo | None:
    """A time zone; UTC, in which times are stored, for one that is not known here."""
    if name is None:
        return None
    try:
        return datetime.datetime.strptime(name, "%z").tzinfo  # +02:00
    except ValueError:
        pass
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return datetime.UTC


def _durations(array: Any) -> list[Any]:
    """Seconds: a whole number where a float would lose digits."""
    per_second = _PER_SECOND[array.type.unit]

    def shown(value: int) -> int | float:
        exact = value % per_second or abs(value // per_second) < 2**53
        return value / per_second if exact else value // per_second

    return _each(array, shown)


def _structs(array: Any) -> list[Any]:
    names = [field.name for field in array.type]
    children = [_nested(child) for child in array.flatten()]
    if len(set(names)) < len(names):
        names = [f"{name}_{at}" if name in names[:at] else name for at, name in enumerate(names)]
    valid = array.is_valid().to_pylist()
    rows: Iterable[tuple[Any, ...]] = zip(*children, strict=True) if children else [()] * len(valid)
    return [
        dict(zip(names, values, strict=True)) if here else None
        for here, values in zip(valid, rows, strict=True)
    ]


def _lists(array: Any) -> list[Any]:
    return [_nested(scalar.values) if scalar.is_valid else None for scalar in array]


def _maps(array: Any) -> list[Any]:
    """Objects where the keys are texts, each once; else lists of pairs."""
    rows: list[Any] = []
    for entries in _lists(array):
        pairs = None if entries is None else [list(entry.values()) for entry in entries]
        keys = [key for key, _ in pairs or []]
        if all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys):
            rows.append(None if pairs is None else dict(pairs))
        else:
            rows.append(pairs)
    return rows


def _nested(array: Any) -> list[Any]:
    return [as_json(value) for value in plain_values(array)]


def _is_text(kind: Any) -> bool:
    types = pa.types
    checks = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return types.is_fixed_size_binary(kind) or any(
        getattr(types, f"is_{check}")(kind) for check in checks
    )


def _is_list(kind: Any) -> bool:
    types = pa.types
    checks = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    return any(getattr(types, f"is_{check}")(kind) for check in checks)


def _is_plain(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))


_CONVERTERS: tuple[tuple[Callable[[Any], bool], Callable[[Any], list[Any]]], ...] = (
    (_is_text, _texts),
    (_is_plain, _as_they_are),
    (pa.types.is_floating, _floats),
    (pa.types.is_decimal, _decimals),
    (pa.types.is_date, _dates),
    (pa.types.is_time, _times),
    (pa.types.is_timestamp, _timestamps),
    (pa.types.is_duration, _durations),
    (pa.types.is_struct, _structs),
    (pa.types.is_map, _maps),
    (_is_list, _lists),
)
