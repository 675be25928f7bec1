"""Series of which a table has the numbers: a series a row, one number a column, or a step a row.

A table in long form has a step a row: ``id, time, channels..., label``. The rows of one file with the same id are a series,
in the order of their times, wherever in the file they stand.
"""

import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lt25.data.faults import Fault
from lt25.data.records import Record, Records

if TYPE_CHECKING:
    import numpy as np

_SORTS = re.compile(r"\d{4}([-/.]?)\d{2}(\1\d{2})?(?!\d)|\d{2}:\d{2}(?!\d)")
"""What dates and times begin with that sort as texts in the order in which they pass."""


def in_a_row(record: Record, columns: list[str], comma: bool, missing: bool = False) -> "np.ndarray":
    """Return the series float64 [T] whose steps are the values of some columns.

    Args:
        record: of the table.
        columns: in the order of the steps.
        comma: whether a comma may stand before decimals.
        missing: whether a value may be missing; it is NaN then.

    Raises:
        Fault: if a value is no number.
    """
    # numpy is imported where there is something to read, so that a mistake is answered before.
    import numpy as np

    return np.array([_number(record, column, comma, missing) for column in columns])


def in_rows(
    records: Records, columns: dict[str, Any], name: str, comma: bool, missing: bool = False
) -> Iterator[Record | Fault]:
    """Yield a record for each series of a table in long form, in the order in which they begin.

    Args:
        records: of the table; faults among them are passed on.
        columns: role -> column. ``input`` has one column or several, the channels; ``id`` and ``time`` have one.
        name: of the file, for messages.
        comma: whether a comma may stand before decimals.
        missing: whether a value of a channel may be missing; it is NaN then.

    Yields:
        Records whose values are those of the first row, but under ``columns["id"]`` the id, and under "" the series, float64
        [T, C]. A channel of dates, which is that of the times, has the seconds since the first of the series.
    """
    import numpy as np

    channels = [columns["input"]] if isinstance(columns["input"], str) else columns["input"]
    alike = [column for role, column in columns.items() if role in ("label", "group")]
    series: dict[str, _Series] = {}
    for record in records:
        if isinstance(record, Fault):
            yield record
            continue
        name_of = str(record.values[columns["id"]] or "").strip()
        if not name_of:
            yield Fault("a missing value", record.where, f"column {columns['id']} has no value")
            continue
        one = series.setdefault(name_of, _Series(record))
        if one.fault:
            continue
        try:
            for column in alike:
                if record.values[column] != one.first.values[column]:
                    raise Fault(
                        "an unusable label", record.where, f"column {column} has several values in the series {name_of}"
                    )
            time = _time(record.values[columns["time"]], record, columns["time"], comma)
            one.times.append(time)
            # A date is counted once that of the first step is known.
            dated = columns["time"] if isinstance(time, str) else None
            one.values.extend(
                [0 if channel == dated else _number(record, channel, comma, missing) for channel in channels]
            )
        except Fault as fault:
            one.fault = fault
    for name_of, one in series.items():
        if one.fault:
            yield one.fault
            continue
        steps = np.array(one.values).reshape(-1, len(channels))
        if len({type(time) for time in one.times}) > 1:
            one.times = [str(time) for time in one.times]
        order = sorted(range(len(steps)), key=one.times.__getitem__)
        if columns["time"] in channels and isinstance(one.times[0], str):
            try:
                first, *_ = passed = [_moment(one.times[step]) for step in order]
                steps[order, channels.index(columns["time"])] = [(time - first).total_seconds() for time in passed]
            except (ValueError, TypeError) as error:
                message = (
                    f"column {columns['time']}: not all dates or times of one kind, as a channel has to have ({error})"
                )
                yield Fault("a time of another form", f"{name}, {columns['id']} {name_of}", message)
                continue
        values = {**one.first.values, columns["id"]: name_of, "": steps[order]}
        yield Record(f"{name}, {columns['id']} {name_of}", one.first.number, values)


@dataclass(slots=True)
class _Series:
    first: Record
    values: array = field(default_factory=lambda: array("d"))
    times: list[float | str] = field(default_factory=list)
    fault: Fault | None = None


def _time(value: Any, record: Record, column: str, comma: bool) -> float | str:
    """Return a time as a number, or as the text that it is: dates sort as texts, where they are written year first.

    Raises:
        Fault: if there is none, or as a text it would sort otherwise than it passes.
    """
    if value is None or not (text := str(value).strip()):
        raise Fault("a missing value", record.where, f"column {column} has no value")
    if (number := parsed_number(value, comma)) is not None:
        return number
    if not _SORTS.match(text):
        message = (
            f"column {column}: {text[:40]!r} is neither a number nor a date or time as 2024-01-31 09:05:00 or 09:05:00"
        )
        raise Fault("a time of another form", record.where, message)
    return text


def _moment(time: float | str) -> datetime:
    """Return the moment that a text says.

    Raises:
        ValueError: if it is neither a date nor a time of day that Python knows.
    """
    text = str(time)
    if text[2:3] == ":":
        text = f"2000-01-01 {text}"
    return datetime.fromisoformat(re.sub(r"^(\d{4})[/.](\d{2})[/.](\d{2})", r"\1-\2-\3", text))


def _number(record: Record, column: str, comma: bool, missing: bool) -> float:
    value = record.values[column]
    if value is None or str(value).strip().lower() in ("", "nan"):
        if missing:
            return math.nan
        message = f"column {column}: no value: `missing: carry` in the dataset's file admits gaps"
        raise Fault("values that are no numbers", record.where, message)
    number = parsed_number(value, comma)
    if number is None or not math.isfinite(number):
        raise Fault(
            "values that are no numbers", record.where, f"column {column}: no finite number: {str(value)[:40]!r}"
        )
    return number


def parsed_number(value: Any, comma: bool) -> float | None:
    """Return what a field says, or None if that is no number; with ``comma`` one may stand before decimals."""
    if comma and isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*", value):
        value = value.replace(",", ".")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
