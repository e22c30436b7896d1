"""Items' vectors behind the titles of a history: made from item ids in one place, trained, scored, searched, saved and
packaged. No setting makes them yet; here they are hung on a policy by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.config.align import AlignSettings
from rosepo_ray.config.policy import LoraSettings, PretrainedPolicy, PromptSettings, ScratchPolicy
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.config.sft import SftSettings
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.library.policy import Policy
from rosepo_ray.policy import batches, store
from rosepo_ray.policy.item_vectors import ItemVectors
from rosepo_ray.policy.scoring import score
from rosepo_ray.programs.align import AlignProgram
from rosepo_ray.programs.reject import Rejector
from rosepo_ray.programs.sft import SftProgram, WindowRows
from rosepo_ray.registry.packaged_model import Recommender
from rosepo_ray.rejection.self_hard import SelfHard
from rosepo_ray.training import in_process
from rosepo_ray.training.windows import Sequences, Windows
from rosepo_ray.training.world import World
from tests import tiny_models

TITLES = ["Toy Story", "Toy", "GoldenEye", "Four Rooms", "Babe", "Babe: Pig in the City", "Amélie", "Twelve Monkeys"]
IDS = [f"i{n}" for n in range(len(TITLES))]
CATALOGUE = Catalogue(IDS, TITLES, [1] * len(IDS))
USERS = {"u": IDS, "v": IDS[::-1], "w": IDS[2:6]}


def vectors(hidden: int, known: Sequence[str] = IDS[:6]) -> ItemVectors:
    torch.manual_seed(7)
    made = ItemVectors(known, torch.randn(len(known), 5), hidden)
    torch.nn.init.normal_(made.unknown)
    return made


def scratch() -> Policy:
    settings = ScratchPolicy(hidden=32, layers=2, heads=2, vocabulary=320)
    made = store.build(settings, PromptSettings(), TITLES, [1] * len(TITLES), seed=1)
    return Policy.of(replace(made, items=vectors(32)))


def adapted(folder: Path) -> Policy:
    base = tiny_models.save(folder, "qwen3", TITLES)
    settings = PretrainedPolicy(model=str(base), lora=LoraSettings(r=2, alpha=4))
    made = store.build(settings, PromptSettings(template="titles"), TITLES, [1] * len(TITLES), seed=1)
    tiny_models.stir_adapters(made.model)
    return Policy.of(replace(made, items=vectors(32)))


def plain(policy: Policy, history: Sequence[str], title: str) -> torch.Tensor:
    """log pi(title | history), column by column: after each title of the history stands the projection of its item's
    embedding, or of the one for items that are not known."""
    assert policy.items is not None
    tokens, prompter, columns = policy.model.get_input_embeddings().weight, policy.prompter, []
    columns += [tokens[token] for token in prompter.opening or [prompter.end_id]]
    for item in history:
        columns += [tokens[token] for token in prompter.response_ids(CATALOGUE.title_of(item))]
        known = item in policy.items.ids
        source = policy.items.table[policy.items.ids.index(item)] if known else policy.items.unknown[0]
        columns.append(policy.items.project(source))
    answer = prompter.response_ids(title)
    x = torch.stack([*columns, *(tokens[token] for token in answer)])[None]
    logps = policy.model(inputs_embeds=x).logits[0].log_softmax(-1)
    places = torch.arange(len(columns) - 1, len(columns) + len(answer) - 1)
    return logps[places, torch.tensor(answer)].sum()


def all_plain(policy: Policy, history: Sequence[str]) -> np.ndarray:
    with torch.inference_mode():
        return np.array([float(plain(policy, history, title)) for title in TITLES])


@pytest.fixture(scope="module", params=["scratch", "adapted"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return scratch() if request.param == "scratch" else adapted(tmp_path_factory.mktemp("base"))


HISTORIES = [["i0"], ["i7", "i1"], ["i3", "i3", "i6", "i5"]]


def test_scoring_reads_the_items_of_a_history(policy: Policy) -> None:
    found = score(policy, [CATALOGUE.requests.of(history, None, TITLES) for history in HISTORIES], 2, 1000)
    for history, scores in zip(HISTORIES, found, strict=True):
        np.testing.assert_allclose(scores, all_plain(policy, history), atol=1e-4)
    known = CATALOGUE.requests.of(["i0"], None, TITLES)
    titles_only, stranger = (replace(known, history_ids=ids) for ids in (None, ["nobody"]))
    bare, unknown, own = score(policy, [titles_only, stranger, known], 3, 1000)
    np.testing.assert_allclose(bare, unknown, atol=1e-5)
    assert abs(unknown - own).max() > 1e-3


def test_windows_in_one_row_read_each_item_where_it_stands(policy: Policy) -> None:
    items = ["i3", "i7", "i0", "i3", "i2"]
    requests = [CATALOGUE.requests.of(items[:n], None, [TITLES[int(items[n][1])], *TITLES]) for n in range(1, 5)]
    ((row, numbers),) = batches.encode_nested(policy, requests)
    assert (numbers, len(row.trunk.items)) == (range(4), 4)
    for n, scores in enumerate(score(policy, requests, 4, 10_000), 1):
        np.testing.assert_allclose(scores[1:], all_plain(policy, items[:n]), atol=1e-4)
    # Another item of the same title is another column.
    strangers = [replace(request, history_ids=["x", *request.history_ids[1:]]) for request in requests]  # type: ignore[index]
    assert len(batches.encode_nested(policy, [requests[0], *strangers[1:]])) == 2


def test_the_catalogue_is_searched_with_them(policy: Policy) -> None:
    for history in HISTORIES:
        wanted = all_plain(policy, history)
        found = policy.rank(CATALOGUE, history, top=3, repeats=True)
        assert [scored.item for scored in found] == [IDS[n] for n in np.argsort(-wanted)[:3]]
        assert policy.write(CATALOGUE, history) is not None


def test_dense_sft_trains_them_and_the_frozen_table_stays(policy: Policy) -> None:
    table = pa.table({"user_id": list(USERS), "items": list(USERS.values())})
    sequences = Sequences.from_table(table, IDS)
    rows = WindowRows(Windows(sequences, 4, 3), CATALOGUE.requests, IDS)
    fit = SftSettings(batch=len(rows.row_ids(0)), micro_batch=2, steps=1, lr=1e-2)
    program = SftProgram(policy, rows, fit, 3, World())
    micros = next(program.batches(0))
    ours: Any = sum(program.loss(program.module(micro.inputs), micro)[0] for micro in micros)
    windows = [[IDS[item - 1] for item in rows.windows.window(0, n)] for n in range(len(rows.row_ids(0)))]
    theirs: Any = -sum(
        plain(policy, window[:n], CATALOGUE.title_of(window[n])) for window in windows for n in range(1, len(window))
    )
    assert policy.items is not None
    trained = [*policy.items.parameters(), *(p for p in policy.model.parameters() if p.requires_grad)]
    found, wanted = (torch.autograd.grad(loss, trained, allow_unused=True) for loss in (ours, theirs))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for one, other in zip(found, wanted, strict=True):
        if one is not None or other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
    assert float(found[0].abs().sum()) > 0  # the vector for unknown items: i6 and i7 are


def test_alignment_trains_them_against_their_own_reference(tmp_path: Path) -> None:
    policy = scratch()
    rejector = Rejector(policy, SelfHard().build(CATALOGUE), CATALOGUE, 1, 1, ScoringSettings())
    rows = [
        {
            "example_id": f"u:{n}",
            "user_id": "u",
            "split": "train",
            "history": IDS[:n],
            "target": IDS[n],
            "candidates": IDS,
            "excluded": IDS[: n + 1],
        }
        for n in (2, 3, 4)
    ]
    pairs = {pair["example_id"]: {**pair, "epsilon": [0.1]} for pair in rejector.pairs(rows)}
    align = AlignSettings(batch=3, lr=1e-2)
    program = AlignProgram(
        policy, CATALOGUE.requests, [[name] for name in pairs], lambda ids: (pairs[i] for i in ids), align, 1, World()
    )
    before = {name: tensor.clone() for name, tensor in policy.items.state_dict().items()}  # type: ignore[union-attr]
    in_process.train(program, align, 1)  # refuses a policy that reads other items than its reference did
    after = policy.items.state_dict()  # type: ignore[union-attr]
    assert {name for name in before if not torch.equal(before[name], after[name])} >= {"project.0.weight"}
    assert torch.equal(before["table"], after["table"])


def test_saved_loaded_and_packaged_they_answer_the_same(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "policy")
    loaded = Policy.from_pretrained(tmp_path / "policy")
    pq.write_table(pa.table({"item_id": IDS, "title": TITLES}), tmp_path / "items.parquet")
    context: Any = SimpleNamespace(
        artifacts={"policy": str(tmp_path / "policy"), "items": str(tmp_path / "items.parquet")},
        model_config={"history": 3, "batch": 2, "tokens": 1000, "cache_mib": 10},
    )
    packaged: Any = Recommender()
    packaged.load_context(context)
    asked = pd.DataFrame({"history": HISTORIES, "example_id": list("abc")})
    answers = packaged.predict(context, asked, {"top": len(IDS), "repeats": True})
    for history, ranked, scores in zip(HISTORIES, answers["ranked"], answers["scores"], strict=True):
        wanted = all_plain(policy, history[-3:])
        np.testing.assert_allclose(scores, [wanted[IDS.index(item)] for item in ranked], atol=1e-4)
        again = {scored.item: scored.score for scored in loaded.rank(CATALOGUE, history[-3:], IDS, top=len(IDS))}
        np.testing.assert_allclose([again[item] for item in IDS], wanted, atol=1e-4)


def test_too_long_a_history_loses_its_oldest_titles_with_their_items() -> None:
    policy = replace(scratch(), prompt=PromptSettings(max_tokens=16))
    prompt = policy.prompter.prompt_ids(CATALOGUE.requests.of(IDS))
    assert len(prompt) <= 16
    kept = len(prompt.items)
    assert 1 <= kept < len(IDS)
    assert prompt == policy.prompter.whole_prompt_ids(CATALOGUE.requests.of(IDS[-kept:]))
    assert policy.prompter.latest(CATALOGUE.requests.of(IDS).history) == len(IDS) - kept


def test_a_worded_prompt_has_no_place_for_them() -> None:
    policy = replace(scratch(), prompt=PromptSettings(template="instruction"))
    with pytest.raises(BadInput, match="template titles only"):
        policy.prompter.prompt_ids(CATALOGUE.requests.of(["i0"]))


def test_ids_and_embeddings_must_fit() -> None:
    for ids in (["a"], ["a", "a"]):
        with pytest.raises(RosepoError, match="came with 2 embeddings"):
            ItemVectors(ids, torch.zeros(2, 3), 8)
