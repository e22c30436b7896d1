"""What an oracle is, and what its kind says of it. Whoever trains, stores, hosts, calibrates, asks or evaluates an
oracle knows no more than this.

A kind is a settings class. The kinds that score items (:class:`ScoringOracle`) make an :class:`Oracle`; the others give
the smoothing factor without one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from rosepo_ray.config.kinds import Kind
from rosepo_ray.config.training import FitSettings
from rosepo_ray.errors import RosepoError
from rosepo_ray.losses import ObjectiveSettings
from rosepo_ray.losses.objective import Need
from rosepo_ray.oracle import smoothing
from rosepo_ray.oracle.answers import Answer

Scores = tuple[list[np.ndarray], list[np.ndarray]]
"""Per row a float32 [n items] of scores, and a bool [n items] of which the oracle knew."""


@dataclass(frozen=True)
class Judgement:
    """Answers about pairs in the order of the rows; `versions` names the oracle that answered each row."""

    disagreement: list[np.ndarray]
    """1 - P(chosen > rejected) per rejected item [K]; 0 where a text is no item."""
    known: list[np.ndarray]
    """Whether the oracle knew both items [K]."""
    scores: list[np.ndarray]
    """Of the chosen and the rejected items [1 + K]; NaN where a text is no item."""
    versions: list[str]

    @property
    def version(self) -> str:
        """The version that answered; several, joined by `+`, where the oracle was replaced between two calls."""
        return "+".join(sorted(set(self.versions)))


Judge = Callable[
    [Sequence[str], Sequence[Sequence[str]], Sequence[str], Sequence[Sequence[str | None]]],
    Judgement,
]
"""Asks an oracle, wherever it is, about users, histories, chosen and rejected items."""
Pairs = Sequence[Mapping[str, Any]]
"""Rows with example_id, user_id, history, chosen and rejected."""


class Oracle(Protocol):
    """A recommender that scores items for a user with a history; higher is more likely."""

    @property
    def kind(self) -> str:
        """The `type` of its settings: the import path where they are outside this package."""

    @property
    def version(self) -> str:
        """Names everything that its answers depend on, the temperature included."""

    @property
    def items(self) -> Sequence[str] | None:
        """The ids that it knows; None where it answers for any."""

    @property
    def temperature(self) -> float:
        """T of P(chosen > rejected) = sigmoid((s_w - s_l) / T); 1.0 until fitted."""

    def with_temperature(self, temperature: float) -> Self:
        """The same oracle with another T, and so with another version."""

    def score(
        self, user_ids: Sequence[str], histories: Sequence[Sequence[str]], items: Sequence[Sequence[str]]
    ) -> Scores:
        """Of the items of each row, in the rows' order; no score depends on the other rows or items asked for.

        An unknown item gets the mean score of all known items for that history, and is flagged.
        """

    def description(self) -> dict[str, Any]:
        """JSON-able; with :meth:`weights` all that the oracle consists of."""

    def weights(self) -> dict[str, Tensor]:
        """Tensors by name; an oracle that has none leaves it empty."""


class Trained(NamedTuple):
    module: nn.Module
    popularity: np.ndarray
    """How often each item occurs in what it learned from, int64 [N]."""


Users = Callable[[Sequence[str]], np.ndarray]
"""Which of the users are meant, bool [U]."""
Train = Callable[[str, Callable[[], nn.Module], Users, FitSettings, int], Trained]
"""Called with a name, what builds a module, which of the users (bool [U]) it learns from, and settings and number of
the steps. The module maps `sasrec_net.Inputs` to the summed loss and the number of targets. What builds it and what
chooses users travel to other processes."""


@dataclass(frozen=True)
class Making:
    """What a kind can make its oracle of."""

    item_ids: tuple[str, ...]
    popularity: np.ndarray
    """Training interactions of each item, int64 [N]."""
    history: int
    """Items that a history holds at most."""
    seed: int
    train: Train
    """Trains a module to predict the next item of the users' sequences."""


class OracleSettings(Kind):
    """Settings of what gives the pairs their smoothing factor."""

    scores: ClassVar[bool] = False
    """Whether it scores items: then it is calibrated, and stands in the evaluation as a recommender of its own."""
    served: ClassVar[bool] = False
    """Whether a Ray Serve app hosts it while alignment asks."""
    gives: ClassVar[frozenset[Need]] = frozenset({"epsilon"})
    """What an objective can be told by it."""
    bound: ClassVar[str] = "epsilon"
    """The setting that bounds the smoothing factor."""

    @property
    def largest_epsilon(self) -> float:
        """The largest smoothing factor it gives."""
        return 1.0

    def refuse_hopeless_run(self, objective: ObjectiveSettings) -> None:
        """Before the first stage: raises BadInput where it cannot answer, or not what the objective needs."""

    def epsilon_of(self, pairs: Pairs, judge: Judge | None) -> dict[str, Answer]:
        """The answers about distinct pairs by example_id. `judge` asks the oracle where the kind has one."""
        raise NotImplementedError


class ScoringOracle(OracleSettings):
    """What the kinds that score items share."""

    scores: ClassVar[bool] = True
    served: ClassVar[bool] = True
    gives: ClassVar[frozenset[Need]] = frozenset({"epsilon", "oracle_scores"})
    bound: ClassVar[str] = "epsilon_max"
    epsilon_max: float = Field(0.5, ge=0, le=1)
    """Upper bound of the personal smoothing factor."""

    @property
    def largest_epsilon(self) -> float:
        return self.epsilon_max

    def prepare(self, making: Making) -> Oracle:
        """The oracle, trained or looked up, with T = 1."""
        raise NotImplementedError

    @classmethod
    def load(cls, description: dict[str, Any], weights: dict[str, Tensor]) -> Oracle:
        """The oracle of these :meth:`Oracle.description` and :meth:`Oracle.weights`."""
        raise NotImplementedError

    def epsilon_of(self, pairs: Pairs, judge: Judge | None) -> dict[str, Answer]:
        if judge is None:
            raise RosepoError(f"an oracle of type {self.type} must be asked, and nothing says where it is")
        names = ("user_id", "history", "chosen", "rejected")
        told = judge(*[[row[name] for row in pairs] for name in names])
        found = {}
        for row, doubt, scores, version in zip(pairs, told.disagreement, told.scores, told.versions, strict=True):
            is_item = np.array([item is not None for item in row["rejected"]], dtype=bool)
            epsilon = smoothing.clip(doubt, is_item, self.epsilon_max).tolist()
            found[row["example_id"]] = Answer(row["rejected"], epsilon, version, scores.tolist())
        return found


def refuse_temperature(temperature: float) -> None:
    """Raises RosepoError where P would not be a probability."""
    if not (np.isfinite(temperature) and temperature > 0):
        raise RosepoError(f"the oracle's temperature is {temperature}; it must be a positive number")
