"""The smoothing factors, and where they were stored the scores, of an earlier alignment."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Literal

import pyarrow.compute as pc
from pydantic import field_validator

from rosepo_ray.config.kinds import ORACLES
from rosepo_ray.config.section import absolute_folder
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.losses import ObjectiveSettings
from rosepo_ray.losses.objective import Need
from rosepo_ray.oracle import answers
from rosepo_ray.oracle.answers import Answer
from rosepo_ray.oracle.protocol import Judge, OracleSettings, Pairs
from rosepo_ray.storage import tables


@ORACLES.kind
class Replay(OracleSettings):
    """The smoothing factors of an earlier alignment, from its table; nothing is asked."""

    gives: ClassVar[frozenset[Need]] = frozenset({"epsilon", "oracle_scores"})  # as far as the table holds them
    type: Literal["replay"] = "replay"
    folder: str
    """Folder of the alignment stage that left the table `smoothing`."""

    @field_validator("folder")
    @classmethod
    def _absolute(cls, folder: str) -> str:
        return absolute_folder(folder)

    @property
    def largest_epsilon(self) -> float:
        return 0.0  # known once the table is read, before the first stage

    def refuse_hopeless_run(self, objective: ObjectiveSettings) -> None:
        if not tables.parts(self.folder, "smoothing"):
            raise BadInput(
                f"oracle.folder '{self.folder}' holds no smoothing table; give the folder of an alignment stage "
                "(RUN/align/FINGERPRINT)"
            )
        table = tables.read(self.folder, "smoothing", ["epsilon", "scores"])
        largest = pc.max(pc.list_flatten(table["epsilon"])).as_py()
        if "epsilon" in objective.needs and largest is not None and largest > objective.largest_epsilon:
            raise BadInput(
                f"oracle.folder '{self.folder}' holds a smoothing factor of {largest:.3g}, more than the objective "
                f"{objective.type} can be given; replay a table made with oracle.epsilon_max "
                f"{objective.largest_epsilon:g} or less, or set align.objective.type conservative"
            )
        if "oracle_scores" in objective.needs and table["scores"].null_count:
            raise BadInput(
                f"oracle.folder '{self.folder}' holds smoothing factors without the oracle's scores, which the "
                f"objective {objective.type} needs; replay an alignment by such an objective, or ask an oracle"
            )

    def epsilon_of(self, pairs: Pairs, judge: Judge | None) -> dict[str, Answer]:
        table = _table(self.folder)
        if not table:
            raise RosepoError(
                f"this node finds no smoothing table in oracle.folder '{self.folder}'; every node must be able to "
                "read it"
            )
        ids = [row["example_id"] for row in pairs]
        if missing := [name for name in ids if name not in table]:
            raise RosepoError(
                f"the replayed table holds no smoothing for {missing[0]} and {len(missing) - 1} more of this batch; "
                "replay with the settings of the run that wrote it"
            )
        return {name: table[name] for name in ids}


@lru_cache(maxsize=1)
def _table(folder: str) -> dict[str, Answer]:
    return answers.table(folder)  # never changed once its stage has ended
