"""A policy to use: what it loads, and that its rankings are those of plain scoring."""

from __future__ import annotations

from pathlib import Path

import pytest

from rosepo_ray.catalogue.items import Catalogue
from rosepo_ray.catalogue.requests import Request
from rosepo_ray.config.policy import PromptSettings, ScratchPolicy
from rosepo_ray.errors import BadInput
from rosepo_ray.library.policy import Policy
from rosepo_ray.policy import store
from rosepo_ray.policy.generation import generate
from rosepo_ray.policy.scoring import score
from tests import tiny_models

TITLES = {f"i{n}": f"The {a} {b}" for n, (a, b) in enumerate((a, b) for a in ("red", "blue") for b in ("house", "sea"))}
CATALOGUE = Catalogue.from_titles(TITLES)


@pytest.fixture(scope="module")
def policy() -> Policy:
    settings = ScratchPolicy(hidden=16, layers=1, heads=2, vocabulary=280)
    return Policy.of(store.build(settings, PromptSettings(max_tokens=64), list(TITLES.values()), [1] * 4, seed=1))


def by_scoring(policy: Policy, history: list[str], items: list[str]) -> list[tuple[str, float]]:
    request = Request([TITLES[item] for item in history], [TITLES[item] for item in items])
    values = score(policy, [request], 1, 1000)[0].tolist()
    return sorted(zip(items, values, strict=True), key=lambda one: -one[1])


def test_candidates_are_ranked_by_the_log_probability_of_their_titles(policy: Policy):
    found = policy.rank(CATALOGUE, ["i0"], ["i1", "i3", "i2"], top=2)
    assert [(one.item, one.score) for one in found] == by_scoring(policy, ["i0"], ["i1", "i2", "i3"])[:2]
    assert [one.title for one in found] == [TITLES[one.item] for one in found]


def test_the_catalogue_is_ranked_without_the_history(policy: Policy):
    wanted = by_scoring(policy, ["i1"], list(TITLES))
    assert [one.item for one in policy.rank(CATALOGUE, ["i1"])] == [item for item, _ in wanted if item != "i1"]
    everything = policy.rank(CATALOGUE, ["i1"], repeats=True)
    assert [one.item for one in everything] == [item for item, _ in wanted]
    assert [one.score for one in everything] == pytest.approx([value for _, value in wanted], abs=1e-4)


def test_only_the_latest_items_are_read_but_all_are_left_out(policy: Policy):
    found = policy.rank(CATALOGUE, ["i3", "i0"], latest=1)
    assert [one.item for one in found] == [item for item, _ in by_scoring(policy, ["i0"], ["i1", "i2"])]


def test_what_it_writes_is_no_longer_than_the_longest_title(policy: Policy):
    longest = max(len(policy.prompter.response_ids(title)) for title in TITLES.values())
    assert policy.write(CATALOGUE, ["i0"]) == generate(policy, [Request([TITLES["i0"]])], 1, longest)[0]


def test_saved_and_loaded_it_ranks_the_same(policy: Policy, tmp_path: Path):
    policy.save(tmp_path)
    loaded = Policy.from_pretrained(tmp_path)
    assert loaded.prompt == policy.prompt
    assert loaded.rank(CATALOGUE, ["i0"]) == policy.rank(CATALOGUE, ["i0"])
    with pytest.raises(BadInput, match="trained with its own"):
        Policy.from_pretrained(tmp_path, prompt=PromptSettings())


def test_a_plain_language_model_is_asked_in_words(tmp_path: Path):
    folder = tiny_models.save(tmp_path, "llama", list(TITLES.values()))
    policy = Policy.from_pretrained(folder)
    assert policy.prompt.template == "instruction"
    assert len(policy.rank(CATALOGUE, ["i0"], top=2)) == 2


def test_what_is_no_model_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="cannot be loaded"):
        Policy.from_pretrained(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("history", "candidates", "told"),
    [
        ([], None, r"history is \[\]"),
        ("i0", None, "history is 'i0'; give a list"),
        (["i0", "x"], None, "history names 1 items that the catalogue lacks, 'x' first"),
        (["i0"], ["i1", "y"], "candidates names 1 items"),
    ],
)
def test_unknown_items_are_refused(policy: Policy, history: list[str], candidates: list[str] | None, told: str):
    with pytest.raises(BadInput, match=told):
        policy.rank(CATALOGUE, history, candidates)
