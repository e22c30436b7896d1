"""One model's predictions as per-row numbers, joined to the examples by id: all that metrics are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rosepo_ray.catalogue.encoders import TitleEncoder
from rosepo_ray.catalogue.title_index import AMBIGUOUS, UNKNOWN, TitleIndex
from rosepo_ray.errors import RosepoError
from rosepo_ray.evaluation import ranking_metrics, whole_catalogue
from rosepo_ray.evaluation.bias import popularity_groups
from rosepo_ray.evaluation.ranking_metrics import METRICS, RankingMetric
from rosepo_ray.evaluation.semantic import over_selection_credit

NO_TEXT = "the model writes no text"
NOT_LISTED = "the prompt does not list the candidates"


@dataclass(frozen=True)
class Judged:
    """The rows under judgement, sorted by example_id, and what all models share.

    Attributes:
        examples: rows of the `examples` table, as dictionaries.
        item_index: item id -> position in the items table [N].
        popularity_N: training interactions.
        group_N: popularity group of each item, 0 to 4.
        titles: lookup of written titles.
        credit: per row, the credit of each wrong candidate that is nearest to the history.
        listed: the prompt lists the candidates.
        metrics: of the rankings.
    """

    examples: list[dict[str, Any]]
    item_index: dict[str, int]
    popularity_N: np.ndarray
    group_N: np.ndarray
    titles: TitleIndex
    credit: list[dict[str, float]]
    listed: bool
    metrics: tuple[RankingMetric, ...]

    @property
    def units(self) -> list[str] | None:
        """The user of each row; None where the log has no user ids."""
        users = [row["user_id"] for row in self.examples]
        if any(users) and not all(users):
            raise RosepoError("some examples have a user_id and some do not; rows of one user cannot be kept together")
        return users if all(users) else None

    def positions(self, items: Iterable[str]) -> np.ndarray:
        return np.fromiter((self.item_index[item] for item in items), dtype=np.int64)


@dataclass(frozen=True)
class RowTable:
    """One model on the judged rows.

    Attributes:
        values: component -> [rows] or [rows, width]; means over seeds after :func:`average`.
        recommended_RS: position in the items table of the top-1, per row and training seed.
        full_RSK: positions of the best items of the whole catalogue, likewise; -1 where it was not ranked.
        absent: component -> why this model does not have it.
    """

    values: dict[str, np.ndarray]
    recommended_RS: np.ndarray
    full_RSK: np.ndarray
    absent: dict[str, str]


def judge(
    examples: pa.Table,
    items: pa.Table,
    encoder: TitleEncoder,
    *,
    listed: bool,
    metrics: tuple[RankingMetric, ...] = METRICS,
) -> Judged:
    """Check the rows to be judged and prepare what all models share.

    Raises:
        RosepoError: no row, a repeated id, an item that the items table lacks, or a candidate set that is not
            two or more distinct items with the target among them.
    """
    ids, titles = items.column("item_id").to_pylist(), items.column("title").to_pylist()
    index = {item: position for position, item in enumerate(ids)}
    if len(index) != len(ids):
        raise RosepoError(f"the items table has {len(ids)} rows but {len(index)} distinct ids")
    rows = sorted(examples.to_pylist(), key=lambda row: row["example_id"])
    if not rows or len({row["example_id"] for row in rows}) != len(rows):
        raise RosepoError(f"{len(rows)} examples cannot be judged: there is none, or an example_id comes twice")
    for row in rows:
        candidates = row["candidates"]
        unknown = {*candidates, *row["history"], row["target"]} - index.keys()
        if unknown:
            raise RosepoError(f"row {row['example_id']}: {sorted(unknown)} are not in the items table")
        if len(candidates) < 2 or len(set(candidates)) != len(candidates) or row["target"] not in candidates:
            raise RosepoError(
                f"row {row['example_id']}: its {len(candidates)} candidates must be distinct, two or more, and hold "
                f"the target {row['target']}"
            )
        if not row["history"]:
            raise RosepoError(f"row {row['example_id']}: its history is empty; at least one item must come before")
    vectors = encoder.encode(titles)
    credit = []
    for row in rows:
        wrong = [item for item in row["candidates"] if item != row["target"]]
        history, candidates = ([index[item] for item in found] for found in (row["history"], wrong))
        credit.append(over_selection_credit(wrong, vectors[history], vectors[candidates]))
    popularity = np.array(items.column("popularity").to_pylist(), dtype=np.float64)
    return Judged(
        examples=rows,
        item_index=index,
        popularity_N=popularity,
        group_N=popularity_groups(ids, popularity),
        titles=TitleIndex(dict(zip(ids, titles, strict=True))),
        credit=credit,
        listed=listed,
        metrics=metrics,
    )


def collect(model: str, predictions: pa.Table, judged: Judged) -> RowTable:
    """Per-row components of one model's `predictions`, in the order of `judged.examples`.

    Raises:
        RosepoError: rows are missing, foreign or repeated; a ranking is not a permutation of the candidates; or
            only some rows have a written text.
    """
    by_id = {row["example_id"]: row for row in predictions.to_pylist()}
    wanted = {row["example_id"] for row in judged.examples}
    if len(by_id) != predictions.num_rows or by_id.keys() != wanted:
        raise RosepoError(
            f"model '{model}' has {predictions.num_rows} predictions ({len(by_id)} distinct rows) of which "
            f"{len(wanted & by_id.keys())} belong to the {len(wanted)} examples; it must answer each exactly once"
        )
    rows = [by_id[row["example_id"]] for row in judged.examples]
    for row, example in zip(rows, judged.examples, strict=True):
        if sorted(row["ranked"]) != sorted(example["candidates"]):
            raise RosepoError(
                f"model '{model}', row {row['example_id']}: its ranking is not a permutation of the candidates"
            )
    targets = [example["target"] for example in judged.examples]
    rankings = ranking_metrics.rankings_of(
        judged.examples, [row["ranked"] for row in rows], judged.item_index, judged.popularity_N, judged.group_N
    )
    top = [row["ranked"][0] for row in rows]
    wrong = (rankings.places_R > 0).astype(np.float64)
    chances = np.array([1 / (len(example["candidates"]) - 1) for example in judged.examples])
    values = {
        "rows": np.ones(len(rows)),
        **ranking_metrics.components(judged.metrics, rankings),
        "wrong": wrong,
        # A wrong top-1 only: the credit of the target is 0, for it is no wrong candidate.
        "over_selected": np.array([credit.get(item, 0.0) for credit, item in zip(judged.credit, top, strict=True)]),
        "chance": wrong * chances,
    }
    written, absent = _written(model, rows, targets, judged)
    seen_R = np.array([example["seen"] for example in judged.examples])
    ranked, full_RK, unranked = whole_catalogue.components(
        model, rows, seen_R, rankings, judged.item_index, judged.metrics
    )
    return RowTable(values | written | ranked, rankings.top_R[:, None], full_RK[:, None], absent | unranked)


def _written(
    model: str, rows: Sequence[dict[str, Any]], targets: Sequence[str], judged: Judged
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Components of the freely written titles, or why there are none."""
    texts = [row["generated"] for row in rows]
    have = sum(text is not None for text in texts)
    if have == 0:
        return {}, dict.fromkeys(("in_catalogue", "ambiguous", "valid", "valid_hit"), NO_TEXT)
    if have != len(texts):
        raise RosepoError(f"model '{model}' wrote a text for {have} of {len(texts)} rows; it must for all or for none")
    outcomes = [judged.titles.outcome(text)[0] for text in texts]
    values = {
        "in_catalogue": np.array([outcome != UNKNOWN for outcome in outcomes], dtype=np.float64),
        "ambiguous": np.array([outcome == AMBIGUOUS for outcome in outcomes], dtype=np.float64),
    }
    if not judged.listed:
        return values, dict.fromkeys(("valid", "valid_hit"), NOT_LISTED)
    named = [judged.titles.valid(t, e["candidates"]) for t, e in zip(texts, judged.examples, strict=True)]
    values["valid"] = np.array([item is not None for item in named], dtype=np.float64)
    values["valid_hit"] = np.array(
        [item == target for item, target in zip(named, targets, strict=True)], dtype=np.float64
    )
    return values, {}


def average(seeds: Sequence[RowTable]) -> RowTable:
    """One table of several training seeds on the same judged rows: every component is averaged per row.

    Ratios and group shares are formed from the averages afterwards; Gini and coverage are those of each seed,
    averaged. The bootstrap then resamples users only, so its interval holds for this set of seeds.

    Raises:
        RosepoError: the tables do not have the same rows and components.
    """
    if not seeds:
        raise RosepoError("no training seed was given to average")
    shapes = [({n: v.shape for n, v in t.values.items()}, len(t.recommended_RS), t.absent) for t in seeds]
    if any(shape != shapes[0] for shape in shapes):
        raise RosepoError("the training seeds do not have the same rows and components; judge all on the same rows")
    values = {name: np.mean([table.values[name] for table in seeds], axis=0) for name in seeds[0].values}
    recommended, ranked = ([getattr(t, name) for t in seeds] for name in ("recommended_RS", "full_RSK"))
    return RowTable(values, np.concatenate(recommended, axis=1), np.concatenate(ranked, axis=1), seeds[0].absent)
