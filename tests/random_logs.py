"""Random interaction logs with the quirks of real files, and what the data stage must make of them in plain Python.

`logs` draws a log as a list of events and the ways it may be spelled; `write` spells it into files; `expected` works on
the events alone, so it shares no code with what it judges.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

UNKNOWN = "77"  # an item that the items file lacks
MISSING = (None, "", "nan", "NaN", "NULL", "\\N")
FLAWS = (None,) * 12 + ("broken", "user", "item", "time", "rating")
NOTES = ("", "plain", 'a, "b"\tc', "two\nlines", "🎬 שלום", " NULL ")


@dataclass(frozen=True)
class Event:
    user: str
    item: str
    time: int
    rating: int | None
    flaw: str | None


@dataclass(frozen=True)
class Log:
    events: list[Event]
    items: list[str]
    timed: bool
    rated: bool
    clock: str
    min_rating: int | None
    split: str
    history: int
    candidates: int
    quote: str
    escape: str | None
    repeats: str

    @property
    def data(self) -> dict[str, Any]:
        """The settings below `data` that belong to the log, without the files."""
        columns = {**({} if self.timed else {"time": None}), **({} if self.rated else {"rating": None})}
        names = ("min_rating", "split", "history", "candidates", "repeats")
        return {
            "sample": "none",
            "on_bad_row": "drop",
            "columns": columns,
            "format": {"quote": self.quote, "escape": self.escape},
            **{name: getattr(self, name) for name in names},
        }


@st.composite
def logs(draw: st.DrawFn, users: int = 5, least: int = 1, most: int = 60) -> Log:
    catalogue = [str(100 + n) for n in range(draw(st.integers(6, 14)))]
    timed, rated = draw(st.booleans()), draw(st.booleans())
    event = st.builds(
        Event,
        user=st.integers(1, users).map(str),
        item=st.sampled_from([*catalogue, UNKNOWN]),
        time=st.integers(0, 12),  # few, so that many are equal
        rating=st.sampled_from([None, 1, 2, 3, 4, 5]),
        flaw=st.sampled_from(FLAWS),
    )
    # Hypothesis likes short lists; long ones hold the duplicates, the ties and the full splits.
    events = draw(st.lists(event, min_size=max(least, draw(st.sampled_from([1, 10, 40]))), max_size=most))
    twin = st.tuples(st.integers(0, len(events) - 1), st.sampled_from([1, 2, 4, 5]))  # equal but for the rating
    events += [replace(events[n], rating=r, flaw=None) for n, r in draw(st.lists(twin, max_size=10))]
    return Log(
        events=events,
        items=catalogue,
        timed=timed,
        rated=rated,
        clock=draw(st.sampled_from(["seconds", "milliseconds", "fractions", "dates"])),
        min_rating=draw(st.sampled_from([None, 3, 3, 3])) if rated else None,
        split=draw(st.sampled_from(["auto", "time", "last_two"] if timed else ["auto", "last_two"])),
        history=draw(st.integers(1, 4)),
        candidates=draw(st.integers(2, 4)),
        quote=draw(st.sampled_from("\"'")),
        escape=draw(st.sampled_from([None, "\\"])),
        repeats=draw(st.sampled_from(["first", "first", "keep"])),
    )


# --- spelling -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """The folder, and the events of each file in order, by path."""

    folder: Path
    files: dict[str, list[Event]] = field(default_factory=dict)


def write(log: Log, folder: Path, seed: int, files: int) -> Written:
    """Spreads the events over so many files of random formats, beside empty ones. With a time their order is shuffled,
    which must not matter (where it does, `files` is 1 and they keep it)."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    events = rng.sample(log.events, len(log.events)) if files > 1 else log.events
    written = Written(folder)
    for number in range(files):
        kind = rng.choice(["csv", "tsv", "jsonl", "csv.gz", "jsonl.gz", "json", "parquet"])
        if kind == "json" and [event.flaw for event in events[number:]][:1] == ["broken"]:
            kind = "jsonl"  # an array of objects is known by its first element
        part = [_possible(event, kind, log) for event in events[number::files]]
        path = folder / f"part-{number:03d}.{kind}"
        content = _parquet(part, log, rng) if kind == "parquet" else _text(part, kind, log, rng)
        path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
        written.files[str(path)] = part
    if files > 1:
        (folder / "empty.csv").write_bytes(b"")
        (folder / "header.tsv").write_text("\t".join(_names(log)) + "\n")
    (folder / "_SUCCESS").write_bytes(b"")
    return written


def _possible(event: Event, kind: str, log: Log) -> Event:
    """A Parquet file has no broken rows and typed columns; a log may lack the column that is flawed."""
    flaw = event.flaw
    if kind == "parquet" and flaw in ("broken", "rating"):
        flaw = "user"
    if (flaw == "time" and not log.timed) or (flaw == "rating" and not log.rated):
        flaw = "item"
    return replace(event, flaw=flaw)


def _names(log: Log) -> list[str]:
    return ["note", "item_id", *(["timestamp"] if log.timed else []), "user_id", *(["rating"] if log.rated else [])]


def _time(event: Event, log: Log) -> int | float | str:
    if log.clock == "seconds":
        return 1_600_000_000 + event.time
    if log.clock == "milliseconds":
        return 1_600_000_000_000 + event.time
    if log.clock == "fractions":
        base = 1_600_000_000_123  # beside decimals it must stay exact
        return base + (event.time // 2 if event.time % 2 == 0 else event.time / 2)
    return (datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=event.time)).isoformat()


def _values(event: Event, log: Log) -> dict[str, Any]:
    values = {"item_id": event.item, "user_id": event.user, "timestamp": _time(event, log), "rating": event.rating}
    if event.flaw in ("user", "item"):
        values[f"{event.flaw}_id"] = MISSING[(event.time + int(event.item)) % len(MISSING)]
    if event.flaw == "time":
        values["timestamp"] = "soon"
    if event.flaw == "rating":
        values["rating"] = "good"
    return values


def _text(events: list[Event], kind: str, log: Log, rng: random.Random) -> bytes:
    ending = rng.choice(["\n", "\r\n"])
    mark = rng.choice(["", "\ufeff"])
    if kind == "json":
        elements = ("[1]" if event.flaw == "broken" else _json(event, log, rng) for event in events)
        return f"{mark} [{f',{ending} '.join(elements)}]{ending}".encode()
    if kind.startswith("jsonl"):
        lines = [_json(event, log, rng) for event in events]
    else:
        sign = "," if kind.startswith("csv") else "\t"
        lines = [sign.join(_names(log)), *(_delimited(event, log, sign, rng) for event in events)]
    spaced = [text for line in lines for text in ([line, ""] if rng.random() < 0.1 else [line])]
    return (mark + ending.join(spaced) + rng.choice(["", ending])).encode()


def _json(event: Event, log: Log, rng: random.Random) -> str:
    if event.flaw == "broken":
        return rng.choice(['{"user_id": ', "[1]", "soon"])
    values = {name: _values(event, log).get(name) for name in _names(log)}
    for name in ("user_id", "item_id"):
        if values[name] is not None and values[name].isdigit() and rng.random() < 0.5:
            values[name] = int(values[name])
    values["note"] = rng.choice(NOTES)
    if log.min_rating is None and rng.random() < 0.3:  # an optional field may be missing
        values = {name: value for name, value in values.items() if value is not None or name != "rating"}
    return json.dumps(values, ensure_ascii=rng.random() < 0.5)


def _delimited(event: Event, log: Log, sign: str, rng: random.Random) -> str:
    values = {**_values(event, log), "note": rng.choice(NOTES)}
    cells = ["" if values[name] is None else str(values[name]) for name in _names(log)]
    for place, name in enumerate(_names(log)):
        if name in ("user_id", "item_id") and cells[place]:
            cells[place] = rng.choice(["{}", " {} ", *["{}.0", "{}.00"] * cells[place].isdigit()]).format(cells[place])
    if event.flaw == "broken":
        cells = rng.choice([cells[:-1], [*cells, "9"]])
    line = io.StringIO()
    how: dict[str, Any] = {"quotechar": log.quote, "escapechar": log.escape, "doublequote": log.escape is None}
    csv.writer(line, delimiter=sign, quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), **how).writerow(cells)
    return line.getvalue().removesuffix("\r\n")


def _parquet(events: list[Event], log: Log, rng: random.Random) -> bytes:
    rows = [_values(event, log) for event in events]
    times = [None if event.flaw == "time" else _time(event, log) for event in events]
    kinds: dict[str, Any] = {"seconds": pa.int64(), "milliseconds": pa.int64(), "fractions": pa.float64()}
    if log.clock == "dates":
        stamps = [None if text is None else datetime.fromisoformat(str(text)) for text in times]
        time = pa.array(stamps, pa.timestamp(rng.choice(["s", "us", "ns"]), "UTC"))
    else:
        time = pa.array(times, kinds[log.clock])
    found = {"timestamp": time, "rating": pa.array([row["rating"] for row in rows], pa.float64())}
    for name in ("user_id", "item_id"):
        kind = rng.choice([pa.string(), pa.int32(), pa.float64()])
        texts = [row[name] for row in rows]
        kind = kind if all(text is None or text.isdigit() for text in texts) else pa.string()
        found[name] = pa.array([t if t is None or pa.types.is_string(kind) else float(t) for t in texts]).cast(kind)
    sink = io.BytesIO()
    pq.write_table(pa.table({name: found[name] for name in _names(log) if name != "note"}), sink)
    return sink.getvalue()


# --- what must come out ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    one_file: bool
    """Whether all readable rows are of one file."""
    dropped: set[tuple[str, int]]
    """(file, data row from 1)."""
    counts: dict[str, int]
    kinds: dict[str, int]
    order: dict[str, list[str]]
    """Kept items of each user, oldest first."""
    sequences: dict[str, list[str]]
    training: dict[str, set[str]]
    """What each user did within the training split, before the rating filter."""
    whole: dict[str, set[str]]
    examples: dict[str, tuple[str, list[str], str, str]]
    """By id: user, history, target, split."""


def expected(log: Log, written: Written) -> Expected:
    readable = {path for path, events in written.files.items() for event in events if not _flaw(event, path, log)}
    one_file = len(readable) == 1
    kinds = dict.fromkeys(("fields", "json", "user", "item", "time", "rating"), 0)
    dropped = set()
    rows = []  # (user, time, tie, rating for equal ones, item)
    unknown = 0
    for path, events in written.files.items():
        for place, event in enumerate(events):
            kind = _flaw(event, path, log)
            if kind is not None:
                kinds[kind] += 1
                dropped.add((path, place + 1))
            elif event.item == UNKNOWN:
                unknown += 1
            else:
                rating = event.rating if log.rated else None
                tie = place if one_file else log.items.index(event.item)
                time = event.time if log.timed else place
                rows.append((event.user, time, tie, 9 if rating is None else rating, event.item))
    whole: dict[str, list[Any]] = {}
    for row in sorted(rows):
        taken = whole.setdefault(row[0], [])
        if not any(row[4] == other[4] and (log.repeats == "first" or row[1] == other[1]) for other in taken):
            taken.append(row)
    keep = {user: [row for row in taken if _kept(row, log)] for user, taken in whole.items()}
    everything = [row for taken in whole.values() for row in taken]
    if log.timed and log.split != "last_two":
        splits, early = _by_time(keep, whole)
    else:
        splits = _last_two(keep)
        early = _before_last_two(whole, splits)
    examples = {}
    for user, taken in keep.items():
        for position in range(1, len(taken)):
            history = [row[4] for row in taken[max(0, position - log.history) : position]]
            examples[f"{user}:{position}"] = (user, history, taken[position][4], splits[taken[position]])
    kept = sum(map(len, keep.values()))
    return Expected(
        one_file=one_file,
        dropped=dropped,
        kinds=kinds,
        counts={
            "interactions": len(rows) + unknown,
            "unknown_items": unknown,
            "duplicates": len(rows) - len(everything),
            "filtered": len(everything) - kept,
            "kept": kept,
            "users": len(whole),
        },
        order={user: [row[4] for row in taken] for user, taken in keep.items()},
        sequences={
            user: [row[4] for row in taken if splits[row] == "train"]
            for user, taken in keep.items()
            if any(splits[row] == "train" for row in taken)
        },
        training={user: {row[4] for row in early[user]} for user in whole},
        whole={user: {row[4] for row in taken} for user, taken in whole.items()},
        examples=examples,
    )


def _flaw(event: Event, path: str, log: Log) -> str | None:
    if event.flaw == "broken":
        return "json" if "json" in path else "fields"
    if event.flaw is None and log.min_rating is not None and event.rating is None:
        return "rating"
    return event.flaw


def _kept(row: Any, log: Log) -> bool:
    return log.min_rating is None or row[3] >= log.min_rating


def _by_time(keep: dict[str, list[Any]], whole: dict[str, list[Any]]) -> tuple[dict[Any, str], dict[str, list[Any]]]:
    """The split of each kept row, and what each user did before the validation split began."""
    rows = [row for taken in keep.values() for row in taken]
    times = sorted(row[1] for row in rows)
    moments = []
    for tenths in (8, 9) if times else ():
        wanted = tenths * len(times) // 10
        time = times[wanted]
        before, through = times.index(time), times.index(time) + times.count(time)
        moments.append(time if wanted - before <= through - wanted else time + 1)
    splits = {row: "train" if row[1] < moments[0] else "validation" if row[1] < moments[1] else "test" for row in rows}
    early = {user: [row for row in taken if not moments or row[1] < moments[0]] for user, taken in whole.items()}
    return splits, early


def _last_two(keep: dict[str, list[Any]]) -> dict[Any, str]:
    splits = {}
    for taken in keep.values():
        ends = {len(taken) - 1: "test", len(taken) - 2: "validation"} if len(taken) > 2 else {}
        splits |= {row: ends.get(place, "train") for place, row in enumerate(taken)}
    return splits


def _before_last_two(whole: dict[str, list[Any]], splits: dict[Any, str]) -> dict[str, list[Any]]:
    early = {}
    for user, taken in whole.items():
        ends = [row[1:3] for row in taken if splits.get(row, "train") != "train"]
        early[user] = [row for row in taken if not ends or row[1:3] < min(ends)]
    return early
