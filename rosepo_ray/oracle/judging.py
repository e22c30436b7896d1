"""Questions to an oracle about pairs, and its answers: the one meaning that the service, its client and tests share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np

from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.oracle.protocol import Judge, Judgement, Oracle
from rosepo_ray.oracle.smoothing import disagreement

MAX_PAIRS = 4096
"""Pairs that one call may ask about."""


class JudgeRequest(TypedDict):
    """Lists of equal length, one entry per row. A rejected text that is no item is None."""

    user_id: list[str]
    history: list[list[str]]
    chosen: list[str]
    rejected: list[list[str | None]]


class JudgeAnswer(TypedDict):
    """Per row the fields of :class:`rosepo_ray.oracle.protocol.Judgement`."""

    disagreement: list[list[float]]
    known: list[list[bool]]
    scores: list[list[float]]
    version: str


def check_request(request: JudgeRequest, max_pairs: int = MAX_PAIRS) -> None:
    """Raises BadInput for a request that is malformed or too large."""
    if missing := sorted(JudgeRequest.__required_keys__ - set(request)):
        raise BadInput(f"the request to the oracle lacks {missing}; send user_id, history, chosen and rejected")
    lengths = {name: len(request[name]) for name in JudgeRequest.__required_keys__}  # type: ignore[literal-required]
    if len(set(lengths.values())) != 1:
        raise BadInput(f"the request to the oracle has lists of unequal length {lengths}; send one entry per row")
    pairs = sum(map(len, request["rejected"]))
    if pairs > max_pairs:
        raise BadInput(
            f"the request asks the oracle about {pairs} pairs, one call takes {max_pairs}; send smaller ones"
        )


def scored(oracle: Oracle, request: JudgeRequest) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Per row the scores of the chosen and the rejected items, float64 [1 + K], and which were known, bool [1 + K].

    For a rejected None NaN and False.
    """
    asked = [[w, *row] for w, row in zip(request["chosen"], request["rejected"], strict=True)]
    items = [[item for item in row if item is not None] for row in asked]
    values, known = [], []
    for row, score, flag in zip(asked, *oracle.score(request["user_id"], request["history"], items), strict=True):
        is_item = np.array([item is not None for item in row], dtype=bool)
        values_R, known_R = np.full(len(row), np.nan), np.zeros(len(row), bool)
        values_R[is_item], known_R[is_item] = score, flag
        values.append(values_R)
        known.append(known_R)
    return values, known


def differences(oracle: Oracle, request: JudgeRequest) -> list[np.ndarray]:
    """Per row d = score(chosen) - score(rejected), float64 [K]; NaN for a rejected None."""
    return [row[0] - row[1:] for row in scored(oracle, request)[0]]


class ItemDifferences(NamedTuple):
    items: np.ndarray
    """d of every (chosen, rejected) whose rejected text is an item, float64."""
    texts: int
    """Rejected texts, items or not."""


def item_differences(oracle: Oracle, request: JudgeRequest) -> ItemDifferences:
    """What a temperature is fitted on, over all rows."""
    flat = np.concatenate(differences(oracle, request))
    # By the id: a score that is not finite is an error, and no text without an item.
    is_item = np.array([item is not None for row in request["rejected"] for item in row], dtype=bool)
    return ItemDifferences(flat[is_item], len(is_item))


def judge(oracle: Oracle, request: JudgeRequest) -> JudgeAnswer:
    """Ask `oracle` in this process. A None among the rejected gets disagreement 0 and is not known."""
    scores, known = scored(oracle, request)
    doubts = [np.nan_to_num(disagreement(row[0] - row[1:], oracle.temperature), nan=0.0) for row in scores]
    return {
        "disagreement": [row.tolist() for row in doubts],
        "known": [(row[1:] & row[0]).tolist() for row in known],
        "scores": [row.tolist() for row in scores],
        "version": oracle.version,
    }


def judgement(answers: Sequence[JudgeAnswer]) -> Judgement:
    """The rows of several answers, in their order."""

    def arrays(name: Literal["disagreement", "known", "scores"], dtype: type) -> list[np.ndarray]:
        return [np.array(row, dtype=dtype) for answer in answers for row in answer[name]]

    versions = [answer["version"] for answer in answers for _ in answer["known"]]
    return Judgement(arrays("disagreement", float), arrays("known", bool), arrays("scores", float), versions)


def here(oracle: Oracle) -> Judge:
    """Asks `oracle` in this process."""
    return lambda *columns: judgement([judge(oracle, as_request(*columns))])


def check_answer(request: JudgeRequest, answer: Any) -> JudgeAnswer:
    """`answer` where it fits `request`; raises RosepoError where rows or numbers are missing or damaged."""
    for name, chosen in (("disagreement", 0), ("known", 0), ("scores", 1)):
        wanted = [chosen + len(row) for row in request["rejected"]]
        got = [len(row) for row in answer[name]]
        if got != wanted:
            raise RosepoError(
                f"the oracle answered {sum(got)} values of '{name}' in {len(got)} rows, asked were {sum(wanted)} in "
                f"{len(wanted)}; nothing of this answer can be used"
            )
    values = np.array([value for row in answer["disagreement"] for value in row], dtype=np.float64)
    scores = np.array([value for row in answer["scores"] for value in row], dtype=np.float64)
    items = np.array(
        [i is not None for c, row in zip(request["chosen"], request["rejected"], strict=True) for i in [c, *row]],
        dtype=bool,
    )
    if not ((values >= 0) & (values <= 1)).all() or (np.isfinite(scores) != items).any() or not answer["version"]:
        raise RosepoError(
            f"the oracle {answer['version']!r} answered a 1 - P outside [0, 1] or a score that is no number; its "
            "weights are damaged"
        )
    return answer


def batches(request: JudgeRequest, rows: int, max_pairs: int = MAX_PAIRS) -> list[JudgeRequest]:
    """The request in pieces of at most `rows` rows and `max_pairs` pairs, in order. A row is never cut."""
    sizes = [len(row) for row in request["rejected"]]
    borders, pairs = [0], 0
    for number, size in enumerate(sizes):
        if number > borders[-1] and (number - borders[-1] == rows or pairs + size > max_pairs):
            borders.append(number)
            pairs = 0
        pairs += size
    borders.append(len(sizes))
    return [_piece(request, a, b) for a, b in pairwise(borders) if b > a]


def _piece(request: JudgeRequest, start: int, end: int) -> JudgeRequest:
    return {
        "user_id": request["user_id"][start:end],
        "history": request["history"][start:end],
        "chosen": request["chosen"][start:end],
        "rejected": request["rejected"][start:end],
    }


def as_request(
    user_ids: Sequence[str],
    histories: Sequence[Sequence[str]],
    chosen: Sequence[str],
    rejected: Sequence[Sequence[str | None]],
) -> JudgeRequest:
    """A request from any sequences."""
    return {
        "user_id": list(user_ids),
        "history": [list(row) for row in histories],
        "chosen": list(chosen),
        "rejected": [list(row) for row in rejected],
    }
