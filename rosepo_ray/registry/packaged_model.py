"""The aligned recommender as an MLflow pyfunc, logged as code: MLflow runs this file when the model is loaded.

It needs neither Ray nor an installed rosepo_ray (the package travels with the model). `predict` takes a table with the
column `history` and, optionally, `candidates` (lists of item ids, oldest history first) and `example_id`, and answers
`ranked` (best first) and `scores` (summed log-probabilities in that order): the candidates, or where none are given
the best of the whole catalogue, exactly, as many as the parameter `top` says (10). The items of the history are left
out of these, so give all of it, also what is older than the policy reads; the parameter `repeats` lets them in (by
default after data.repeats keep). `unknown` lists the items of the history that the catalogue lacks, which are left
out; with the parameter `unknown` set to `refuse` they are an error. These are the evaluation stage's rankings, made by
the same functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow.parquet as pq
from mlflow.pyfunc import PythonModel, PythonModelContext

from rosepo_ray.catalogue.requests import Requests
from rosepo_ray.evaluation.ranking import rank
from rosepo_ray.policy import store
from rosepo_ray.policy.scoring import score
from rosepo_ray.policy.search.ranking import top_k
from rosepo_ray.policy.search.title_trie import TitleTrie
from rosepo_ray.registry import requests


class Recommender(PythonModel):
    """Ranks candidates by the policy's log-probability of their titles."""

    def load_context(self, context: PythonModelContext) -> None:
        base = context.artifacts.get("base")
        self.policy = store.load(Path(context.artifacts["policy"]), base=base)
        table = pq.read_table(context.artifacts["items"], columns=["item_id", "title"], partitioning=None)
        self.titles = dict(zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True))
        self.requests, self.item_ids = Requests(self.titles), list(self.titles)
        self.place_of = {item: place for place, item in enumerate(self.item_ids)}
        self.trie = TitleTrie.build(self.policy.prompter, list(self.titles.values()), self.item_ids)
        self.history = int(context.model_config["history"])
        self.batch = int(context.model_config["batch"])
        self.tokens = int(context.model_config["tokens"])
        self.cache_mib = int(context.model_config["cache_mib"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        strict = requests.read_strict(params)
        asks = requests.read(model_input.to_dict("records"), self.titles, self.history, strict=strict)
        top, repeats = requests.read_top(params, len(self.item_ids)), requests.read_repeats(params)
        if self.policy.prompt.list_candidates:
            requests.refuse_without_candidates(asks)
        listed = [ask for ask in asks if ask.candidates is not None]
        open_asks = [ask for ask in asks if ask.candidates is None]
        answers = iter(self._rank(listed))
        found = iter(self._search(open_asks, top, repeats))
        rows = [(*next(found if ask.candidates is None else answers), ask.unknown) for ask in asks]
        return pd.DataFrame(rows, columns=["ranked", "scores", "unknown"], index=model_input.index)

    def _rank(self, asks: list[requests.Ask]) -> list[tuple[list[str], list[float]]]:
        """The candidates of each ask, best first."""
        prompts = [
            self.requests.of(ask.history, ask.candidates, self.requests.titles(ask.candidates or ())) for ask in asks
        ]
        logps = score(self.policy, prompts, self.batch, self.tokens)
        ranked = [rank(ask.row_id, ask.candidates or [], values) for ask, values in zip(asks, logps, strict=True)]
        return [(items, values.tolist()) for items, values in ranked]

    def _search(self, asks: list[requests.Ask], top: int, repeats: bool) -> list[tuple[list[str], list[float]]]:
        """The best of the whole catalogue for each ask."""
        prompts = [self.policy.prompter.prompt_ids(self.requests.of(ask.history)) for ask in asks]
        found = top_k(
            self.policy,
            self.trie,
            prompts,
            top,
            [ask.row_id for ask in asks],
            batch=self.batch,
            tokens=self.tokens,
            cache_mib=self.cache_mib,
            left_out=None if repeats else [[self.place_of[item] for item in ask.seen] for ask in asks],
        )
        return [([self.item_ids[item] for item in best.items], best.scores.tolist()) for best in found]


mlflow.models.set_model(Recommender())
