"""The aligned recommender as an MLflow pyfunc, logged as code: MLflow runs this file when the model is loaded.

It needs neither Ray nor an installed rosepo_ray (the package travels with the model). `predict` takes a table with the
columns `history` and `candidates` (lists of item ids, oldest history first) and, optionally, `example_id`, and answers
`ranked` (the candidates, best first) and `scores` (summed log-probabilities in that order): the evaluation stage's
ranking, made by the same functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow.parquet as pq
from mlflow.pyfunc import PythonModel, PythonModelContext

from rosepo_ray.evaluation.ranking import rank
from rosepo_ray.policy import store
from rosepo_ray.policy.prompts import Request
from rosepo_ray.policy.scoring import score
from rosepo_ray.registry import requests


class Recommender(PythonModel):
    """Ranks candidates by the policy's log-probability of their titles."""

    def load_context(self, context: PythonModelContext) -> None:
        base = context.artifacts.get("base")
        self.policy = store.load(Path(context.artifacts["policy"]), base=base)
        table = pq.read_table(context.artifacts["items"], columns=["item_id", "title"])
        self.titles = dict(zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True))
        self.history = int(context.model_config["history"])
        self.batch = int(context.model_config["batch"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        asks = requests.read(model_input.to_dict("records"), self.titles, self.history)
        prompts = []
        for ask in asks:
            candidates = [self.titles[item] for item in ask.candidates]
            prompts.append(Request([self.titles[item] for item in ask.history], candidates, candidates))
        ranked, scores = [], []
        for ask, logps in zip(asks, score(self.policy, prompts, self.batch), strict=True):
            items, values = rank(ask.row_id, ask.candidates, logps)
            ranked.append(items)
            scores.append([float(value) for value in values])
        return pd.DataFrame({"ranked": ranked, "scores": scores}, index=model_input.index)


mlflow.models.set_model(Recommender())
