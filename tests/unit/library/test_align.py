"""The method in one process: what it trains on, and that the parts fit together as in the stages."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from rosepo_ray.catalogue.requests import Request
from rosepo_ray.errors import BadInput
from rosepo_ray.library.align import Aligned, align
from rosepo_ray.library.dataset import Dataset
from rosepo_ray.library.evaluate import evaluate
from rosepo_ray.library.policy import Policy
from rosepo_ray.policy.scoring import score
from tests import synthetic

TINY: dict[str, Any] = {
    "policy": {"type": "scratch", "hidden": 16, "layers": 1, "heads": 2, "vocabulary": 300},
    "sft": {"steps": 8, "batch": 8, "lr": 5e-3},
    "oracle": {"type": "sasrec", "hidden": 8, "layers": 1, "steps": 8, "batch": 16},
    "rejection": {"examples": 24, "validation_examples": 12, "k": 2},
    "align": {"batch": 8, "epochs": 2},
}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    titles = dict(synthetic.items())
    taken = {f"u{n}": random.Random(n).sample(list(titles), 8) for n in range(16)}
    return Dataset.from_sequences(taken, titles, history=4, candidates=6)


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, int]]:
    return []


@pytest.fixture(scope="module")
def found(dataset: Dataset, steps: list[tuple[str, int]]) -> Aligned:
    return align(dataset, seed=3, on_step=lambda what, step, _: steps.append((what, step)), **TINY)


def logps(policy: Policy, dataset: Dataset, pair: dict[str, Any]) -> list[float]:
    titles = [dataset.catalogue.title_of(item) for item in pair["history"]]
    chosen = dataset.catalogue.title_of(pair["chosen"])
    return score(policy, [Request(titles, [chosen, *pair["rejected_text"]])], 1, 1000)[0].tolist()


def test_pairs_are_training_rows_with_what_the_user_did_not_take(dataset: Dataset, found: Aligned):
    taken = {row["user_id"]: set(row["training"]) for row in dataset.taken.to_pylist()}
    targets = {row["example_id"]: row["target"] for row in dataset.split("train").to_pylist()}
    assert len(found.pairs) == 24
    for pair in found.pairs:
        assert targets[pair["example_id"]] == pair["chosen"]
        assert len(set(pair["rejected"])) == 2
        assert not taken[pair["user_id"]] & set(pair["rejected"])


def test_the_reference_is_the_policy_before_alignment_which_stays(dataset: Dataset, found: Aligned):
    pair = found.pairs[0]
    stored = [pair["ref_chosen_logp"], *pair["ref_rejected_logps"]]
    assert logps(found.sft, dataset, pair) == pytest.approx(stored, abs=1e-4)
    assert logps(found.policy, dataset, pair) != pytest.approx(stored, abs=1e-4)


def test_the_smoothing_is_the_calibrated_oracle_s_doubt(found: Aligned):
    assert found.oracle is not None
    assert found.oracle.temperature != 1.0
    for pair in found.pairs[:5]:
        (scores,), _ = found.oracle.score([pair["user_id"]], [pair["history"]], [[pair["chosen"], *pair["rejected"]]])
        doubt = 1 / (1 + np.exp((scores[0] - scores[1:]).astype(float) / found.oracle.temperature))
        assert pair["epsilon"] == pytest.approx(np.minimum(doubt, 0.5), abs=1e-6)


def test_every_training_took_its_steps(found: Aligned, steps: list[tuple[str, int]]):
    # 24 pairs twice in steps of 8
    wanted = (
        [("sft", n) for n in range(1, 9)]
        + [("oracle fold0", n) for n in range(1, 9)]
        + [("align", n) for n in range(1, 7)]
    )
    assert steps == wanted


def test_the_same_seed_gives_the_same_weights(dataset: Dataset, found: Aligned):
    again = align(dataset, seed=3, **TINY)
    assert again.pairs == found.pairs
    for one, other in zip(again.policy.model.parameters(), found.policy.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_constant_smoothing_asks_nobody(dataset: Dataset):
    found = align(dataset, **{**TINY, "oracle": {"type": "constant", "epsilon": 0.1}, "align": {"batch": 24}})
    assert found.oracle is None
    assert all(pair["epsilon"] == [0.1, 0.1] for pair in found.pairs)


def test_models_are_judged_on_the_held_out_rows(dataset: Dataset, found: Aligned):
    models = {"sft": found.sft, "oracle": found.oracle, "aligned": found.policy}
    judged = evaluate(dataset, models, draws=100, generate=False, catalogue_examples=4)
    assert judged["models"].keys() == {"popular", *models}
    rows = dataset.split("test").to_pylist()
    best = [found.policy.rank(dataset.catalogue, row["history"], row["candidates"], top=1)[0].item for row in rows]
    hits = np.mean([item == row["target"] for item, row in zip(best, rows, strict=True)])
    assert judged["models"]["aligned"]["hr@1"]["value"] == pytest.approx(hits)
    assert judged["models"]["aligned"]["full_hr@10"]["rows"] == 4


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sft": {"stepz": 3}}, "sft.stepz"),
        ({"beta": 1}, "beta"),
        ({"prompt": {"template": "instruction"}}, "sft.dense needs prompt.template titles"),
        (
            {"oracle": {"type": "constant", "epsilon": 0.9}, "align": {"objective": {"type": "robust"}}},
            "oracle.epsilon",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_refused(dataset: Dataset, settings: dict[str, Any], told: str):
    with pytest.raises(BadInput, match=told):
        align(dataset, **settings)


def test_without_rows_there_is_nothing_to_judge(dataset: Dataset, found: Aligned):
    empty = Dataset(dataset.items, dataset.sequences, dataset.taken, dataset.split("train"))
    with pytest.raises(BadInput, match="test split has no examples"):
        evaluate(empty, {"aligned": found.policy})
