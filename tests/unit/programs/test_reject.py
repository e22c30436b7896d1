"""Rejected samples of a tiny policy: what is asked, written, scored and stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from rosepo_ray.catalogue.items import Catalogue, title_key
from rosepo_ray.catalogue.requests import Request
from rosepo_ray.config.policy import PromptSettings, ScratchPolicy
from rosepo_ray.config.scoring import ScoringSettings
from rosepo_ray.policy import store
from rosepo_ray.policy.generation import generate
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.scoring import score
from rosepo_ray.programs import reject
from rosepo_ray.programs.reject import Rejector
from rosepo_ray.rejection import StrategySettings
from rosepo_ray.rejection.generated import Generated
from rosepo_ray.rejection.mix import Mix
from rosepo_ray.rejection.popularity import Popularity
from rosepo_ray.rejection.self_hard import SelfHard
from rosepo_ray.rejection.semantic import Semantic
from rosepo_ray.rejection.uniform import Uniform
from rosepo_ray.storage import tables

TITLES = ("Toy Story", "GoldenEye", "Four Rooms", "Get Shorty", "Copycat", "Twelve Monkeys", "Babe", "BABE")
CATALOGUE = Catalogue(tuple("abcdefgh"), TITLES, (9, 8, 7, 6, 5, 4, 3, 2))
LIMITS = ScoringSettings(batch=3, tokens=512)


@pytest.fixture(scope="module")
def policy() -> Policy:
    settings = ScratchPolicy(hidden=32, layers=2, heads=2, vocabulary=320)
    return store.build(settings, PromptSettings(), list(TITLES), list(CATALOGUE.popularity), seed=1)


def example(number: int, history: str = "ab", target: str = "c", candidates: str = "cdef", taken: str = "") -> dict:
    return {
        "example_id": f"u{number}:2",
        "user_id": f"u{number}",
        "split": "train",
        "history": list(history),
        "target": target,
        "candidates": list(candidates),
        "excluded": sorted({*history, target, *taken}),
    }


def rejector(policy: Policy, settings: StrategySettings, k: int = 1, limits: ScoringSettings = LIMITS) -> Rejector:
    return Rejector(policy, settings.build(CATALOGUE), CATALOGUE, k, 1, limits)


def told(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    """The policy writes these texts, in turn, for each row."""

    def written(policy: Policy, requests: list[Request], names: list[str], *_: Any, **__: Any) -> list[str]:
        return [texts[int(name.split("\x1f")[1]) % len(texts)] for name in names]

    monkeypatch.setattr(reject, "sample", written)


def alone(policy: Policy, row: dict[str, Any], title: str) -> float:
    history = [CATALOGUE.title_of(item) for item in row["history"]]
    return float(score(policy, [Request(history, [title])], 1, 4096)[0][0])


def check_reference(policy: Policy, pairs: list[dict[str, Any]]) -> None:
    """The stored log-probabilities are those of the texts, each scored by itself."""
    for pair in pairs:
        expected = [alone(policy, pair, text) for text in [CATALOGUE.title_of(pair["chosen"]), *pair["rejected_text"]]]
        found = [pair["ref_chosen_logp"], *pair["ref_rejected_logps"]]
        np.testing.assert_allclose(found, expected, atol=1e-4)


ALL = [
    SelfHard(),
    SelfHard(temperature=1.0),
    Semantic(),
    Popularity(),
    Uniform(),
    Generated(tries=2),
    Mix(parts={"self_hard": 1, "semantic": 1, "popularity": 1, "uniform": 1, "generated": 1}),
]


@pytest.mark.parametrize("settings", ALL, ids=lambda settings: f"{settings.type}")
def test_pairs_fit_their_table_and_depend_on_no_batch(policy: Policy, settings: StrategySettings) -> None:
    rows = [example(n, history="ab"[: 1 + n % 2]) for n in range(7)]
    pairs = rejector(policy, settings, k=3).pairs(rows)
    assert [pair["example_id"] for pair in pairs] == [row["example_id"] for row in rows]
    table = tables.from_rows("pairs", pairs)
    assert table.num_rows == 7
    check_reference(policy, pairs)
    for pair in pairs:
        lists = [pair[name] for name in ("rejected", "rejected_text", "strategy", "ref_rejected_logps")]
        assert len({len(values) for values in lists}) == 1
        assert len({title_key(text) for text in pair["rejected_text"]}) == len(pair["rejected_text"])
    turned = rejector(policy, settings, k=3, limits=ScoringSettings(batch=64)).pairs(rows[::-1])[::-1]
    for pair, again in zip(pairs, turned, strict=True):
        assert (pair["rejected"], pair["rejected_text"]) == (again["rejected"], again["rejected_text"])


def test_self_hard_picks_what_the_policy_finds_likeliest(policy: Policy) -> None:
    (pair,) = rejector(policy, SelfHard(), k=2).pairs([example(1)])
    logps = {item: alone(policy, pair, CATALOGUE.title_of(item)) for item in "def"}
    assert pair["rejected"] == sorted(logps, key=lambda item: -logps[item])[:2]


def test_texts_that_are_an_item_get_its_id_and_spelling_and_others_none(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Right: the target, the history, what the user takes later. Of two items called Babe none is meant.
    told(monkeypatch, "FOUR rooms", "toy story", "Get Shorty", "", "golden", "COPYCAT", "Babe", "copycat", "Golden")
    (pair,) = rejector(policy, Generated(tries=3), k=3).pairs([example(1, taken="d")])
    assert pair["rejected"] == [None, "e", None]
    assert pair["rejected_text"] == ["golden", "Copycat", "Babe"]
    assert pair["strategy"] == ["generated"] * 3
    check_reference(policy, [pair])


def test_texts_are_drawn_by_row_and_a_row_may_have_fewer(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "Four Rooms", "Copycat", "Solaris")
    rows = [example(1), example(2, taken="e"), example(3, history="abe", target="f")]
    pairs = rejector(policy, Generated(tries=2), k=2).pairs(rows)
    assert [pair["rejected"] for pair in pairs] == [["e", None], [None], ["c", None]]
    check_reference(policy, pairs)


def test_a_row_whose_texts_are_all_right_is_kept_without_rejected_items(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, "four  rooms", "GoldenEye")
    pairs = rejector(policy, Generated(), k=2).pairs([example(1), example(2, target="d")])
    assert [pair["rejected"] for pair in pairs] == [[], ["c"]]
    assert pairs[0]["ref_rejected_logps"] == []
    table = tables.from_rows("pairs", pairs)
    assert pc.list_value_length(table["rejected_text"]).to_pylist() == [0, 1]
    check_reference(policy, pairs)


def test_a_user_who_took_all_that_a_strategy_could_draw_is_passed_over(policy: Policy) -> None:
    """Every wrong candidate, every item, or every item but those that share the target's title."""
    rows = [
        example(1, taken="def"),
        example(2),
        example(3, taken="abcdefgh"),
        example(4, target="g", candidates="gh", taken="abcdef"),
    ]
    for settings, found in ((SelfHard(), 1), (Uniform(), 1), (Popularity(), 2), (Semantic(), 2)):
        pairs = rejector(policy, settings).pairs(rows)
        assert [len(pair["rejected"]) for pair in pairs] == [found - 1, 1, 0, 0], settings.type


def test_one_scoring_pass_serves_all_parts_of_a_mix(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[list[int]] = []

    def counted(policy: Policy, requests: list[Request], *limits: int) -> list[np.ndarray]:
        passes.append([len(request.responses) for request in requests])
        return score(policy, requests, *limits)

    monkeypatch.setattr(reject, "score", counted)
    mix = rejector(policy, Mix(parts={"self_hard": 1, "popularity": 1}), k=2)
    pairs = mix.pairs([example(n) for n in range(20)])
    assert {name for pair in pairs for name in pair["strategy"]} == {"self_hard", "popularity"}
    assert len(passes) == 1
    # The target, and the candidates only where a slot asks for them; what popularity drew may be one of them.
    for pair, responses in zip(pairs, passes[0], strict=True):
        inside = set(pair["candidates"]) if "self_hard" in pair["strategy"] else {pair["chosen"]}
        drawn = {i for i, name in zip(pair["rejected"], pair["strategy"], strict=True) if name == "popularity"}
        assert responses == len(inside | drawn)
    check_reference(policy, pairs)


def test_a_text_that_was_cut_off_is_still_scored(policy: Policy) -> None:
    """A policy that never writes the end token: texts as long as the longest title, and no longer."""
    end = policy.prompter.end_id

    def never_ends(module: Any, args: Any, output: Any) -> Any:
        output.logits[..., end] = -1e9
        return output

    hook = policy.model.register_forward_hook(never_ends)
    try:
        made = rejector(policy, Generated(tries=4))
        pairs = made.pairs([example(n) for n in range(8)])
    finally:
        hook.remove()
    texts = [text for pair in pairs for text in pair["rejected_text"]]
    assert texts
    assert max(len(policy.prompter.text_ids(text)) for text in texts) >= made.longest
    check_reference(policy, pairs)


def test_a_text_without_room_or_tokens_is_never_scored(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no character become U+FFFD, three bytes each: such a text may have more tokens than were written,
    and a model with learned positions would have no place for them."""
    made = rejector(policy, Generated(tries=3))
    told(monkeypatch, "\ufffd" * 64, "", "Solaris")  # 192 tokens, where 512 - 448 are left
    assert made.pairs([example(1)])[0]["rejected_text"] == ["Solaris"]


def test_sampled_at_hardly_any_temperature_it_is_what_the_policy_writes(policy: Policy) -> None:
    made = rejector(policy, Generated(temperature=1e-5, tries=2))
    rows = [example(n, history="abde"[: 1 + n]) for n in range(4)]
    requests = [Request([CATALOGUE.title_of(item) for item in row["history"]]) for row in rows]
    for pair, text in zip(made.pairs(rows), generate(policy, requests, 4, made.longest), strict=True):
        item = CATALOGUE.named(text)
        right = title_key(text) in {title_key(CATALOGUE.title_of(i)) for i in [*pair["history"], pair["chosen"]]}
        assert pair["rejected_text"] == (
            [] if right or not text else [text if item is None else CATALOGUE.title_of(item)]
        )
