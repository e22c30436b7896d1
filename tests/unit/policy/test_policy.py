"""The policy: prompts, packed rows against separate rows, scoring, generation, saving."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

from rosepo_ray.catalogue.requests import Request
from rosepo_ray.config.policy import PretrainedPolicy, PromptSettings, ScratchPolicy
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.policy import batches, pretrained, scoring, store
from rosepo_ray.policy.engine import layout
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.generation import generate
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.scoring import score
from rosepo_ray.policy.segments import EncodedPrompt, EncodedRow
from tests.rows import chain, pack

TITLES = ["Toy Story", "GoldenEye", "Four Rooms", "Get Shorty", "Copycat", "Twelve Monkeys", "Babe", "Seven (Se7en)"]
SCRATCH = ScratchPolicy(hidden=32, layers=2, heads=2, vocabulary=300)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return store.build(SCRATCH, PromptSettings(), TITLES, [9, 8, 7, 6, 5, 4, 3, 2], seed=1)


def naive(policy: Policy, prompt: EncodedPrompt, response: list[int]) -> float:
    """log pi(y|x) by one plain forward pass over prompt + response: the reference of the packed path."""
    ids = torch.tensor([prompt.ids + response])
    with torch.inference_mode():
        logps = policy.model(input_ids=ids).logits.float().log_softmax(-1)[0]
    return sum(float(logps[len(prompt) + i - 1, token]) for i, token in enumerate(response))


def test_titles_prompt_is_the_history_each_title_closed_by_the_end_token(policy: Policy):
    prompter = policy.prompter
    ids = prompter.prompt_ids(Request(["Babe", "Copycat"])).ids
    assert ids == [prompter.end_id, *prompter.response_ids("Babe"), *prompter.response_ids("Copycat")]
    assert prompter.response_ids("Babe")[-1] == prompter.end_id
    assert prompter.response_ids("Babe").count(prompter.end_id) == 1


def test_a_title_that_looks_like_a_special_token_is_text(policy: Policy):
    assert policy.prompter.end_id not in policy.prompter.text_ids("The <|end|> of it")


def test_a_long_prompt_loses_its_oldest_items_first(policy: Policy):
    short = Policy(policy.model, policy.tokenizer, policy.settings, PromptSettings(max_tokens=20))
    whole = policy.prompter.prompt_ids(Request(TITLES)).ids
    ids = short.prompter.prompt_ids(Request(TITLES)).ids
    assert len(ids) <= 20 < len(whole)
    assert ids[1:] == whole[-len(ids) + 1 :]
    with pytest.raises(BadInput, match=r"prompt\.max_tokens"):
        short.prompter.prompt_ids(Request(["a title of very many words " * 30]))


def test_instruction_prompt_lists_candidates_only_when_told(policy: Policy):
    def text(list_candidates: bool) -> str:
        prompt = PromptSettings(template="instruction", list_candidates=list_candidates)
        told = Policy(policy.model, policy.tokenizer, policy.settings, prompt)
        return policy.tokenizer.decode(told.prompter.prompt_ids(Request(["Babe"], (), ["Copycat"])).ids)

    assert "Babe" in text(False)
    assert "Copycat" not in text(False)
    assert "Copycat" in text(True)


@settings(max_examples=25)
@given(data=st.data())
def test_packed_rows_equal_separate_rows(policy: Policy, data: st.DataObject):
    tokens = st.integers(0, 299)
    prompt = st.lists(tokens, min_size=1, max_size=12).map(EncodedPrompt)
    prompts = data.draw(st.lists(prompt, min_size=1, max_size=3))
    answers = [data.draw(st.lists(st.lists(tokens, min_size=1, max_size=5), min_size=1, max_size=6)) for _ in prompts]
    with torch.inference_mode():
        packed = PackedPolicy(policy.model)(pack(prompts, answers, policy.pad_id))
    separate = [naive(policy, prompt, answer) for prompt, row in zip(prompts, answers, strict=True) for answer in row]
    assert packed.tolist() == pytest.approx(separate, abs=1e-4)


def test_packed_gradients_equal_separate_gradients(policy: Policy):
    prompt, answers = EncodedPrompt([5, 6, 7]), [[8, 9, 1], [10, 1], [11, 12, 13, 1]]
    weights = torch.tensor([1.0, -0.5, 2.0])

    def gradient(values: torch.Tensor) -> list[torch.Tensor]:
        policy.model.zero_grad()
        (values * weights).sum().backward()
        return [p.grad.clone() for p in policy.model.parameters() if p.grad is not None]

    module = PackedPolicy(policy.model)
    packed = gradient(module(pack([prompt], [answers], policy.pad_id)))
    apart = gradient(torch.cat([module(pack([prompt], [[answer]], policy.pad_id)) for answer in answers]))
    for a, b in zip(packed, apart, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_dense_rows_give_each_title_given_all_before_it(policy: Policy):
    prompter = policy.prompter
    window = TITLES[:4]
    rows = [batches.encode_window(policy, Request(titles)) for titles in (window, TITLES[4:6])]
    micro = batches.response_rows(policy, rows, ["a", "b"], real=True)
    with torch.inference_mode():
        found = PackedPolicy(policy.model)(micro.inputs).tolist()
    expected = [
        naive(policy, prompter.prompt_ids(Request(row[:n])), prompter.response_ids(row[n]))
        for row in (window, TITLES[4:6])
        for n in range(1, len(row))
    ]
    assert found == pytest.approx(expected, abs=1e-4)
    assert micro.count == sum(len(prompter.response_ids(t)) for t in [*TITLES[1:4], TITLES[5]])
    assert batches.response_rows(policy, rows[:1], ["a"], real=False).count == 0


def test_chain_and_pack_agree_on_single_responses():
    one, other = (lay([EncodedPrompt([1, 2])], [[[3, 4]]], 0) for lay in (pack, chain))
    assert one.input_ids_BL.tolist() == other.input_ids_BL.tolist() == [[1, 2, 3]]
    assert one.target_M.tolist() == other.target_M.tolist() == [3, 4]


def test_scores_do_not_depend_on_the_batch_or_the_order(policy: Policy):
    requests = [Request(TITLES[:n], TITLES[: 2 + n % 3]) for n in range(1, 8)]
    alone = [score(policy, [request], 1, 4096)[0] for request in requests]
    for size in (2, 7):
        for a, b in zip(score(policy, requests, size, 4096), alone, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
    assert [len(part) for part in alone] == [len(request.responses) for request in requests]


def test_a_pass_takes_no_more_tokens_than_told_and_scores_stay_the_same(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Request(TITLES[:n], TITLES[: 1 + n % 7]) for n in range(1, 8)] + [Request(TITLES[:2])]
    passes: list[tuple[int, int]] = []

    def noted(rows: list[EncodedRow], pad_id: int) -> object:
        packed = layout.pack(rows, pad_id)
        passes.append(tuple(packed.input_ids_BL.shape))
        return packed

    whole = score(policy, requests, 64, 10**6)
    longest = max(len(policy.prompter.prompt_ids(r)) for r in requests) + max(
        len(policy.prompter.response_ids(t)) for t in TITLES
    )
    monkeypatch.setattr(scoring, "pack", noted)
    for tokens in (longest, 2 * longest, 500):
        passes.clear()
        for a, b in zip(score(policy, requests, 3, tokens), whole, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
        assert max(rows * length for rows, length in passes) <= tokens
        assert max(rows for rows, _ in passes) <= 3
    assert len(whole[-1]) == 0
    # Prompts and answers are padded apart: a long prompt and many answers do not share a pass.
    passes.clear()
    score(policy, [Request(TITLES * 4, TITLES[:1]), Request(TITLES[:1], TITLES * 4)], 3, 200)
    assert max(rows * length for rows, length in passes) <= 200
    # A response that does not fit beside its prompt is scored all the same, alone in its row.
    for a, b in zip(score(policy, requests, 3, 1), whole, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_generation_is_greedy_and_ends_at_the_end_token(policy: Policy):
    longest = max(len(policy.prompter.response_ids(title)) for title in TITLES)
    requests = [Request(TITLES[:n]) for n in (1, 3, 5)]
    together = generate(policy, requests, 3, longest)
    assert together == [generate(policy, [request], 1, longest)[0] for request in requests]
    ids = policy.prompter.prompt_ids(requests[0]).ids
    written: list[int] = []
    for _ in range(longest):
        with torch.inference_mode():
            written.append(int(policy.model(input_ids=torch.tensor([ids + written])).logits[0, -1].argmax()))
        if written[-1] == policy.prompter.end_id:
            break
    kept = [token for token in written if token != policy.prompter.end_id]
    assert together[0] == policy.tokenizer.decode(kept, clean_up_tokenization_spaces=False).strip()


def test_a_saved_policy_is_the_same(policy: Policy, tmp_path: Path):
    store.save(policy, tmp_path)
    again = store.load(tmp_path)
    request = Request(TITLES[:3], TITLES)
    np.testing.assert_array_equal(score(policy, [request], 1, 4096)[0], score(again, [request], 1, 4096)[0])
    assert again.settings == SCRATCH
    assert not list(tmp_path.rglob("*.bin"))  # safetensors only
    with pytest.raises(RosepoError, match=r"policy\.json"):
        store.load(tmp_path / "model")


def test_the_same_seed_builds_the_same_policy(policy: Policy):
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(99)  # the global generator plays no part
        built = store.build(SCRATCH, PromptSettings(), TITLES, [9, 8, 7, 6, 5, 4, 3, 2], seed)
        return next(built.model.parameters())

    assert torch.equal(weights(1), next(policy.model.parameters()))
    assert not torch.equal(weights(2), weights(1))


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 300}


def test_what_is_no_model_is_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"policy\.model"):
        pretrained.load_base(PretrainedPolicy(type="pretrained", model=str(tmp_path / "empty")), 100)


def test_sliding_windows_are_refused(policy: Policy, tmp_path: Path):
    sizes = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 1}
    config = Qwen2Config(**sizes, sliding_window=8, use_sliding_window=True, max_window_layers=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="sliding window"):
        pretrained.load_base(PretrainedPolicy(type="pretrained", model=str(tmp_path)), 100)


def test_prompts_longer_than_the_models_positions_are_refused(policy: Policy, tmp_path: Path):
    GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=300, n_positions=64).save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    told = PretrainedPolicy(type="pretrained", model=str(tmp_path))
    pretrained.refuse_unfit_model(told, 63)
    with pytest.raises(BadInput, match="64 positions"):
        pretrained.refuse_unfit_model(told, 64)
