"""Ids, times and ratings as files spell them, turned into the one form that the tables use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

INTEGER, FRACTION, DATE = 0, 1, 2
"""How a time was written: see `times`."""

FRACTION_SCALE = 1_000_000
_ZONE = r"([zZ]|[+-]\d{2}:?\d{2})$"


def flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # more than 2 GB of text
        array = pa.concat_arrays(array.chunks)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def ids(column: pa.ChunkedArray | pa.Array, untyped: bool, missing: Sequence[str] = ()) -> pa.Array:
    """Ids as strings [N]; whole numbers without ".0"; null where there is no id, one of the words `missing` (in upper
    or lower case), or one that is `inexact`.

    Tools that once met a missing value write integers as 12.0; in text files, which have no types, that ending is
    therefore cut as well.
    """
    array = flat(column)
    if pa.types.is_floating(array.type):
        known = pc.and_kleene(pc.is_valid(array), pc.invert(pc.is_nan(array)))
        array = pc.if_else(pc.and_(known, pa.array(~inexact(array))), array, None)
        array = pc.cast(array, pa.float32()) if pa.types.is_float16(array.type) else array  # Arrow has no floor of it
        whole = pc.equal(array, pc.floor(array))
        digits = pc.cast(pc.if_else(whole, array, None), pa.int64(), safe=False)
        return pc.coalesce(pc.cast(digits, pa.string()), pc.cast(array, pa.string()))
    text = pc.utf8_trim_whitespace(pc.cast(array, pa.string()))
    if (untyped or pa.types.is_decimal(array.type)) and pc.any(pc.match_substring(text, ".0")).as_py():
        text = pc.replace_substring_regex(text, r"^(-?\d+)\.0+$", r"\1")
    words = pa.array(["", *(word.lower() for word in missing)], text.type)
    return pc.if_else(pc.is_in(pc.utf8_lower(text), value_set=words), None, text)


def inexact(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Mask [N] of the floats so large that several whole numbers share one: as ids they cannot be told apart."""
    array = flat(column)
    if not pa.types.is_floating(array.type):
        return np.zeros(len(array), bool)
    digits = {16: 11, 32: 24, 64: 53}[array.type.bit_width]
    large = pc.greater_equal(pc.abs(pc.cast(array, pa.float64())), 2.0**digits)
    return np.asarray(pc.fill_null(large, False).to_numpy(zero_copy_only=False))


def numbers(column: pa.ChunkedArray | pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Floats [N] (float64, null where empty) and a mask [N] of the values that are no number."""
    array = flat(column)
    bad = np.zeros(len(array), bool)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        text = pc.utf8_trim_whitespace(array)
        text = pc.if_else(pc.equal(text, ""), None, text)
        try:
            values = pc.cast(text, pa.float64())
        except pa.ArrowInvalid:
            parsed = [_float(value) for value in text.to_pylist()]
            bad = np.array([p is None and t.is_valid for p, t in zip(parsed, text, strict=True)], bool)
            values = pa.array(parsed, pa.float64())
    elif pa.types.is_null(array.type):
        values = pc.cast(array, pa.float64())
    else:
        try:
            values = pc.cast(array, pa.float64(), safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return pa.nulls(len(array), pa.float64()), np.ones(len(array), bool)
    return pc.if_else(pc.fill_null(pc.is_nan(values), False), None, values), bad


def _float(text: str | None) -> float | None:
    try:
        return float(text) if text is not None and "_" not in text else None
    except ValueError:
        return None


def inexact_times(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Mask [N] of the times that lost their order: floats of fewer than 64 bits, too large to be told apart."""
    kind = column.type
    return inexact(column) if pa.types.is_floating(kind) and kind.bit_width < 64 else np.zeros(len(column), bool)


def times(column: pa.ChunkedArray | pa.Array, written: str | None = None) -> tuple[pa.Array, np.ndarray]:
    """Times as int64 [N] (null where missing or unreadable) and how each was written, uint8 [N].

    With the format `written` (of strptime) every time is a DATE and must follow it. Without, INTEGER keeps a whole
    number; FRACTION is a number with decimals times FRACTION_SCALE; DATE is microseconds since 1970 (ISO 8601; without
    a zone it counts as UTC). Each value is judged by itself.
    """
    array = flat(column)
    if written is not None:
        return _written_times(array, written), _all(array, DATE)
    if pa.types.is_integer(array.type):
        return pc.cast(array, pa.int64(), safe=False), _all(array, INTEGER)
    if pa.types.is_temporal(array.type):
        if not (pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)):
            return pa.nulls(len(array), pa.int64()), _all(array, DATE)  # a time of day or a duration orders nothing
        stamps = pc.cast(array, pa.timestamp("us", getattr(array.type, "tz", None)), safe=False)
        return pc.cast(stamps, pa.int64()), _all(array, DATE)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        text = pc.utf8_trim_whitespace(pc.cast(array, pa.string()))
        try:
            if not pc.any(pc.match_substring_regex(text, "[xX]")).as_py():  # Arrow would read hexadecimal numbers
                return pc.cast(text, pa.int64()), _all(array, INTEGER)
        except pa.ArrowInvalid:
            pass
        return _text_times(text)
    values, _ = numbers(array)
    return _number_times(values)


def _all(array: pa.Array, kind: int) -> np.ndarray:
    return np.full(len(array), kind, np.uint8)


def _number_times(values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Value by value, so that neighbours in a file or a block do not matter."""
    whole = pc.fill_null(pc.equal(values, pc.floor(values)), True)
    scaled = pc.if_else(whole, values, pc.round(pc.multiply(values, float(FRACTION_SCALE))))
    fits = pc.less(pc.abs(scaled), 2.0**63)
    kinds = np.where(whole.to_numpy(zero_copy_only=False), INTEGER, FRACTION).astype(np.uint8)
    return pc.cast(pc.if_else(fits, scaled, None), pa.int64(), safe=False), kinds


def _text_times(text: pa.Array) -> tuple[pa.Array, np.ndarray]:
    numeric = pc.match_substring_regex(text, r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
    # Up to nine tenths of what int64 holds: nanoseconds would lose their order as floats.
    exact = pc.match_substring_regex(text, r"^[-+]?(\d{1,18}|[0-8]\d{18})$")
    from_integers = pc.cast(pc.utf8_ltrim(pc.if_else(exact, text, None), "+"), pa.int64())
    others = pc.and_(numeric, pc.invert(exact))
    from_numbers, kinds = _number_times(pc.cast(pc.if_else(others, text, None), pa.float64()))
    is_date = pc.and_(pc.invert(numeric), pc.is_valid(text))
    from_dates = _dates(pc.if_else(is_date, text, None))
    kinds[pc.fill_null(is_date, False).to_numpy(zero_copy_only=False)] = DATE
    return pc.coalesce(from_integers, from_numbers, from_dates), kinds


def _dates(text: pa.Array) -> pa.Array:
    """Microseconds since 1970, int64 [N]; null where the text is no ISO 8601 date. The zone may be a word."""
    text = pc.replace_substring_regex(text, r"(?i)\s*(UTC|GMT)$", "Z")
    try:
        zoned = pc.match_substring_regex(text, r"\d" + _ZONE)
        zoned = pc.and_(zoned, pc.match_substring_regex(text, r"[T ]\d{2}"))
        with_zone = pc.cast(pc.if_else(zoned, text, None), pa.timestamp("us", "UTC"))
        without = pc.cast(pc.if_else(zoned, None, text), pa.timestamp("us"))
        return pc.coalesce(pc.cast(with_zone, pa.int64()), pc.cast(without, pa.int64()))
    except pa.ArrowInvalid:
        return pa.array([_microseconds(value) for value in text.to_pylist()], pa.int64())


def _written_times(array: pa.Array, written: str) -> pa.Array:
    """Microseconds since 1970, int64 [N]; null where the value does not follow the format `written`."""
    if not (pa.types.is_integer(array.type) or pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        return pa.nulls(len(array), pa.int64())
    coded = pc.utf8_trim_whitespace(pc.cast(array, pa.string())).dictionary_encode()
    moments = [_microseconds(value, written) for value in coded.dictionary.to_pylist()]
    return pa.array(moments, pa.int64()).take(coded.indices)


def _microseconds(text: str | None, written: str | None = None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.strptime(text, written) if written else datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
