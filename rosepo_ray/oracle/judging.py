"""Questions to an oracle about pairs, and its answers: the one meaning that the service, its client and tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np

from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.oracle.model import Oracle
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
    """Per row and rejected item: 1 - P(chosen > rejected), and whether the oracle knew both items."""

    disagreement: list[list[float]]
    known: list[list[bool]]
    version: str


@dataclass(frozen=True)
class Judgement:
    """The rows' answers in the order of the question; `versions` names the oracle that answered each row."""

    disagreement: list[np.ndarray]
    known: list[np.ndarray]
    versions: list[str]

    @property
    def version(self) -> str:
        """The version that answered; several, joined by `+`, where the oracle was replaced between two calls."""
        return "+".join(sorted(set(self.versions)))


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


def differences(oracle: Oracle, request: JudgeRequest) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Per row d = score(chosen) - score(rejected), float64 [K], and whether both items were known, bool [K].

    d is NaN and known False for a rejected None.
    """
    chosen, rejected = request["chosen"], request["rejected"]
    items = [[w, *(item for item in row if item is not None)] for w, row in zip(chosen, rejected, strict=True)]
    scores, flags = oracle.score(request["user_id"], request["history"], items)
    values, known = [], []
    for row, score, flag in zip(rejected, scores, flags, strict=True):
        is_item = np.array([item is not None for item in row], dtype=bool)
        values_K, known_K = np.full(len(row), np.nan), np.zeros(len(row), bool)
        values_K[is_item] = score[0].astype(np.float64) - score[1:].astype(np.float64)
        known_K[is_item] = flag[1:] & flag[0]
        values.append(values_K)
        known.append(known_K)
    return values, known


def judge(oracle: Oracle, request: JudgeRequest) -> JudgeAnswer:
    """Ask `oracle` in this process. A None among the rejected gets disagreement 0 and is not known."""
    values, known = differences(oracle, request)
    doubts = [np.where(np.isnan(d), 0.0, disagreement(d, oracle.temperature)).tolist() for d in values]
    return {"disagreement": doubts, "known": [row.tolist() for row in known], "version": oracle.version}


def check_answer(request: JudgeRequest, answer: Any) -> JudgeAnswer:
    """`answer` where it fits `request`; raises RosepoError where rows or numbers are missing or not probabilities."""
    wanted = [len(row) for row in request["rejected"]]
    for name in ("disagreement", "known"):
        got = [len(row) for row in answer[name]]
        if got != wanted:
            raise RosepoError(
                f"the oracle answered {sum(got)} values of '{name}' in {len(got)} rows, asked were {sum(wanted)} in "
                f"{len(wanted)}; nothing of this answer can be used"
            )
    values = np.array([value for row in answer["disagreement"] for value in row], dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all() or not answer["version"]:
        raise RosepoError(f"the oracle {answer['version']!r} answered a 1 - P outside [0, 1]; its weights are damaged")
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
