"""What a packaged recommender accepts: checked row by row before any scoring, with a sentence for what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from rosepo_ray.errors import BadInput

MAX_ROWS = 10_000
MAX_HISTORY = 1_000
MAX_CANDIDATES = 1_000
MAX_TOP = 1_000
DEFAULT_TOP = 10
UNKNOWN = ("leave_out", "refuse")
"""What may happen to items of a history that the catalogue lacks."""
_NAMED = 3


@dataclass(frozen=True)
class Ask:
    """One row of a request: item ids, oldest history first, and the id that orders equal scores."""

    row_id: str
    history: list[str]
    candidates: list[str] | None
    """None asks for the best of the whole catalogue."""
    seen: list[str]
    """All items of the history that are known, also those older than what the policy is shown."""
    unknown: list[str]
    """Ids of the history that the catalogue lacks: they are left out."""


def read(rows: Iterable[dict[str, Any]], known: Collection[str], keep: int, *, strict: bool = False) -> list[Ask]:
    """Checked rows; of each history the newest `keep` items, which is what the policy was trained with.

    Items of a history that are not `known` (new ones, mostly) are left out; `strict` refuses them. Without `example_id`
    equal scores are ordered by a hash of history and item: the answer then depends neither on the order of the
    candidates nor on the other rows. Raises BadInput naming the row.
    """
    rows = list(rows)
    if len(rows) > MAX_ROWS:
        raise BadInput(f"{len(rows)} rows are too many for one request; send at most {MAX_ROWS} at a time")
    return [_read_row(number, row, known, keep, strict) for number, row in enumerate(rows)]


def _read_row(number: int, row: dict[str, Any], known: Collection[str], keep: int, strict: bool) -> Ask:
    if "history" not in row:
        raise BadInput(f"row {number} has no 'history'; give the column history (item ids), and candidates if you like")
    whole = _ids(number, "history", row["history"], MAX_HISTORY)
    history, unknown = [item for item in whole if item in known], [item for item in whole if item not in known]
    if unknown and (strict or not history):
        _refuse_unknown(number, "history", unknown)
    given = row.get("candidates")
    nothing = given is None or (isinstance(given, float) and given != given)  # pandas writes a missing list as NaN
    candidates = None if nothing else _ids(number, "candidates", given, MAX_CANDIDATES)
    if candidates is not None and len(set(candidates)) != len(candidates):
        raise BadInput(f"row {number} names a candidate twice; give each candidate once")
    if missing := [item for item in candidates or () if item not in known]:
        _refuse_unknown(number, "candidates", missing)
    given = row.get("example_id")
    row_id = given if isinstance(given, str) else "\x1f".join(history)
    return Ask(row_id, history[-keep:], candidates, history, unknown)


def signature(repeats: bool) -> Any:
    """The columns and parameters as MLflow describes them; `repeats` is that parameter's default."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

    texts, numbers = Array(DataType.string), Array(DataType.float)
    return ModelSignature(
        inputs=Schema(
            [
                ColSpec(texts, "history"),
                ColSpec(texts, "candidates", required=False),
                ColSpec(DataType.string, "example_id", required=False),
            ]
        ),
        outputs=Schema([ColSpec(texts, "ranked"), ColSpec(numbers, "scores"), ColSpec(texts, "unknown")]),
        params=ParamSchema(
            [
                ParamSpec("top", DataType.integer, DEFAULT_TOP),
                ParamSpec("repeats", DataType.boolean, repeats),
                ParamSpec("unknown", DataType.string, UNKNOWN[0]),
            ]
        ),
    )


def refuse_without_candidates(asks: Sequence[Ask]) -> None:
    """For a policy that was trained with the candidates in its prompt: every row must name some."""
    without = [number for number, ask in enumerate(asks) if ask.candidates is None]
    if without:
        raise BadInput(
            f"{len(without)} of {len(asks)} rows, row {without[0]} first, name no candidates, which this policy was "
            "trained to see in its prompt; give the column candidates"
        )


def read_top(params: dict[str, Any] | None, catalogue: int) -> int:
    """How many items of the whole catalogue are asked for. Raises BadInput where that is no number in range."""
    top = (params or {}).get("top", DEFAULT_TOP)
    if isinstance(top, bool) or not hasattr(top, "__index__") or not 1 <= int(top) <= MAX_TOP:
        raise BadInput(f"top is {top!r}; give a whole number from 1 to {MAX_TOP}")
    return min(int(top), catalogue)


def read_repeats(params: dict[str, Any] | None) -> bool:
    """Whether the whole catalogue is ranked with the items of the history. Raises BadInput where that is no bool."""
    repeats = (params or {}).get("repeats", False)
    if repeats not in (True, False):
        raise BadInput(f"repeats is {repeats!r}; give true or false")
    return bool(repeats)


def read_strict(params: dict[str, Any] | None) -> bool:
    """Whether an unknown item in a history refuses the request. Raises BadInput for another word."""
    unknown = (params or {}).get("unknown", UNKNOWN[0])
    if unknown not in UNKNOWN:
        raise BadInput(f"unknown is {unknown!r}; give {' or '.join(UNKNOWN)}")
    return bool(unknown == UNKNOWN[1])


def _ids(number: int, name: str, value: Any, most: int) -> list[str]:
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise BadInput(f"row {number}: {name} is {value!r}, not a list; give a list of item ids")
    ids = list(value)
    if not ids:
        raise BadInput(f"row {number}: {name} is empty; give at least one item id")
    if len(ids) > most:
        raise BadInput(f"row {number}: {name} has {len(ids)} items; give at most {most}")
    if wrong := [item for item in ids if not isinstance(item, str)]:
        raise BadInput(f"row {number}: {name} holds {wrong[0]!r}, and an item id is a text; send it as one")
    return ids


def _refuse_unknown(number: int, name: str, unknown: Sequence[str]) -> NoReturn:
    shown = ", ".join(repr(item) for item in unknown[:_NAMED]) + (", …" if len(unknown) > _NAMED else "")
    raise BadInput(
        f"row {number}: {name} names {len(unknown)} unknown item(s) ({shown}); only items of the training catalogue "
        "can be read and recommended"
    )
