"""Llama, Qwen2, Qwen3 and GPT-2, with tied and untied heads: training, scoring, generation, saving; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, MistralConfig

from rosepo_ray.catalogue.requests import Request
from rosepo_ray.config.policy import LoraSettings, PretrainedPolicy, PromptSettings
from rosepo_ray.errors import BadInput
from rosepo_ray.policy import pretrained, store
from rosepo_ray.policy.checks import engine
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.generation import generate
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.scoring import score
from rosepo_ray.policy.segments import EncodedPrompt
from tests import tiny_models
from tests.rows import pack

TITLES = ["Toy Story", "GoldenEye", "Four Rooms", "Get Shorty", "Copycat", "Twelve Monkeys", "Babe", "Seven (Se7en)"]
# Each family one way and both ways at least once: engine/test_packed.py tries them all.
POLICIES = ("llama lora", "llama-tied full", "qwen2 full", "qwen3 lora", "gpt2 lora", "gpt2 full")
PROMPT = PromptSettings(template="instruction", list_candidates=True)


@pytest.fixture(scope="module", params=POLICIES)
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """A family with adapters that do something, or with all weights in training."""
    family, how = request.param.split()
    folder = tiny_models.save(tmp_path_factory.mktemp("base"), family, TITLES)
    lora = LoraSettings(r=4, alpha=8) if how == "lora" else None
    settings = PretrainedPolicy(type="pretrained", model=str(folder), lora=lora)
    built = store.build(settings, PROMPT, TITLES, [1] * 8, seed=1)  # store.build runs the self-check
    tiny_models.stir_adapters(built.model)
    built.model.eval()
    return built


def naive(policy: Policy, prompt: EncodedPrompt, response: list[int]) -> torch.Tensor:
    """log pi(y|x) by one plain forward pass over prompt + response."""
    logps = policy.model(input_ids=torch.tensor([prompt.ids + response])).logits[0].float().log_softmax(-1)
    return torch.stack([logps[len(prompt) + i - 1, token] for i, token in enumerate(response)]).sum()


def test_what_is_trained(policy: Policy):
    trained = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    assert trained
    assert isinstance(policy.settings, PretrainedPolicy)
    if policy.settings.lora is not None:
        assert all("lora_" in name for name in trained)
    else:
        assert trained == {name for name, _ in policy.model.named_parameters()}


def test_scores_do_not_depend_on_the_batch(policy: Policy):
    requests = [Request(TITLES[:n], TITLES[: 2 + n % 3], TITLES[:4]) for n in range(1, 6)]
    alone = [score(policy, [request], 1, 4096)[0] for request in requests]
    for a, b in zip(score(policy, requests, 5, 4096), alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    assert len({round(float(x), 3) for x in alone[2]}) == len(alone[2])


def test_generation_is_greedy(policy: Policy):
    longest = max(len(policy.prompter.response_ids(title)) for title in TITLES)
    requests = [Request(TITLES[:n], (), TITLES[:4]) for n in (1, 4)]
    together = generate(policy, requests, 2, longest)
    assert generate(policy, requests, 2, longest, tokens=1) == together  # one prompt a pass
    for request, text in zip(requests, together, strict=True):
        ids, written = policy.prompter.prompt_ids(request).ids, list[int]()
        while len(written) < longest and policy.prompter.end_id not in written:
            with torch.inference_mode():
                written.append(int(policy.model(input_ids=torch.tensor([ids + written])).logits[0, -1].argmax()))
        assert text == policy.prompter.written([token for token in written if token != policy.prompter.end_id])


def test_a_models_own_generation_settings_change_nothing(policy: Policy):
    """Chat models come with a repetition penalty; transformers would fill it in."""
    from transformers import GenerationConfig

    from rosepo_ray.policy.model import causal_lm
    from rosepo_ray.policy.search.constrained import generate_items
    from rosepo_ray.policy.search.title_trie import TitleTrie

    model, trie = causal_lm(policy.model), TitleTrie.build(policy.prompter, TITLES, TITLES)
    requests = [Request(TITLES[:n], (), TITLES[:4]) for n in (1, 4)]
    prompts = [policy.prompter.prompt_ids(request) for request in requests]
    held, found = model.generation_config, []
    theirs = GenerationConfig(repetition_penalty=9.0, no_repeat_ngram_size=1, suppress_tokens=list(range(5, 200)))
    for config in (held, theirs):
        model.generation_config = config
        items = [generate_items(policy, trie, prompts, ["a", "b"], 2, beams).tolist() for beams in (1, 3)]
        found.append((generate(policy, requests, 2, trie.longest), items))
        assert model.generation_config is config
    model.generation_config = held
    assert found[0] == found[1]


def test_a_saved_policy_is_the_same_and_can_be_trained_on(policy: Policy, tmp_path: Path):
    store.save(policy, tmp_path)
    request = Request(TITLES[:3], TITLES[3:], TITLES[3:])
    before = score(policy, [request], 1, 4096)[0]
    for trainable in (False, True):
        again = store.load(tmp_path, trainable=trainable)
        np.testing.assert_allclose(score(again, [request], 1, 4096)[0], before, atol=1e-5)
        assert again.settings == policy.settings
    names = {name for name, p in again.model.named_parameters() if p.requires_grad}
    assert names == {name for name, p in policy.model.named_parameters() if p.requires_grad}
    assert not list(tmp_path.rglob("*.bin"))
    assert isinstance(policy.settings, PretrainedPolicy)
    assert (tmp_path / "adapter").is_dir() == (policy.settings.lora is not None)


_DROPOUT: dict[str, dict[str, float]] = {
    "gpt2": {"attn_pdrop": 0.5, "embd_pdrop": 0.5, "resid_pdrop": 0.5},
    **{family: {"attention_dropout": 0.5} for family in ("llama", "qwen2", "qwen3")},
}


@pytest.mark.parametrize(
    ("family", "how"), [("gpt2", "lora"), ("gpt2", "full"), ("llama", "full"), ("qwen2", "lora"), ("qwen3", "lora")]
)
def test_training_computes_what_scoring_computes_whatever_dropout_the_model_has(family: str, how: str, tmp_path: Path):
    base = tiny_models.save(tmp_path / "base", family, TITLES, **_DROPOUT[family])

    def differs(model: torch.nn.Module) -> bool:
        """Whether two passes in training mode, or one in training and one in evaluation mode, differ."""
        ids = torch.tensor([[5, 17, 41, 8, 99, 23]])
        with torch.no_grad():
            plain = model.eval()(input_ids=ids).logits
            torch.manual_seed(3)
            return any(not torch.equal(model.train()(input_ids=ids).logits, plain) for _ in range(2))

    assert differs(AutoModelForCausalLM.from_pretrained(base))  # as the user's own code would train it
    settings = PretrainedPolicy(
        type="pretrained", model=str(base), lora=LoraSettings(r=4, alpha=8) if how == "lora" else None
    )
    assert not differs(pretrained.load_base(settings, PROMPT.max_tokens)[0])
    policy = store.build(settings, PROMPT, TITLES, [1] * 8, seed=1)
    assert not differs(policy.model)
    store.save(policy, tmp_path / "saved")
    if how == "full":  # as an earlier version wrote it
        file = tmp_path / "saved" / "model" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **_DROPOUT[family]}))
        assert differs(AutoModelForCausalLM.from_pretrained(file.parent))
    for trainable in (False, True):
        assert not differs(store.load(tmp_path / "saved", trainable=trainable).model)


def test_rates_are_cleared_wherever_a_model_keeps_them():
    """As a number of a module, as a module, in its config and in a config inside that; nothing else is touched."""
    config = tiny_models.config("gpt2", resid_pdrop=0.25, layer_norm_epsilon=0.125, keep_dropped=True, dropped_ids=7)
    config.inner = tiny_models.config("qwen2", attention_dropout=0.5)
    model = torch.nn.Sequential(torch.nn.Dropout2d(0.5), torch.nn.Linear(2, 2))
    model.config, model.layerdrop, model.scale = config, 0.5, 0.5  # type: ignore[assignment]
    pretrained.remove_dropout(model)
    assert (model[0].p, model.layerdrop, model.scale) == (0, 0, 0.5)
    assert (config.resid_pdrop, config.inner.attention_dropout) == (0, 0)
    assert (config.layer_norm_epsilon, config.keep_dropped, config.dropped_ids) == (0.125, True, 7)


@pytest.mark.parametrize("how", ["lora", "full"])
def test_recomputing_activations_changes_no_gradient(how: str, tmp_path: Path):
    folder = tiny_models.save(tmp_path, "qwen3", TITLES)
    lora = LoraSettings(r=4, alpha=8) if how == "lora" else None
    found = []
    for checkpointing in (False, True):
        settings = PretrainedPolicy(
            type="pretrained", model=str(folder), lora=lora, gradient_checkpointing=checkpointing
        )
        policy = store.build(settings, PROMPT, TITLES, [1] * 8, seed=1)
        policy.model.train()
        ids = policy.prompter.prompt_ids(Request(TITLES[:2], (), TITLES[:3]))
        PackedPolicy(policy.model)(pack([ids], [[policy.prompter.response_ids("Babe")]], 0)).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]))
    assert torch.allclose(*found, rtol=1e-5, atol=1e-7)
    assert float(found[0].norm()) > 1e-3


def refusal(settings: PretrainedPolicy, prompt: PromptSettings = PROMPT) -> str:
    with pytest.raises(BadInput) as caught:
        store.build(settings, prompt, TITLES, [1] * 8, seed=1)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_sliding_window_shorter_than_the_prompt_is_refused_and_a_longer_one_is_not(tmp_path: Path):
    config = MistralConfig(**{**tiny_models._SIZES, "vocab_size": 300}, sliding_window=200)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_models.save(tmp_path / "tokenizer", "llama", TITLES)
    for file in (tmp_path / "tokenizer").glob("tokenizer*"):
        file.rename(tmp_path / file.name)
    settings = PretrainedPolicy(type="pretrained", model=str(tmp_path), lora=None)
    told = refusal(settings, PromptSettings(template="instruction", max_tokens=200))
    assert "sliding window of 200 tokens" in told
    assert "prompt.max_tokens is 200; lower it below 200" in told
    policy = store.build(settings, PromptSettings(template="instruction", max_tokens=190), TITLES, [1] * 8, seed=1)
    engine.refuse_other_arithmetic(policy, TITLES)


def save_as(config: object, folder: Path) -> PretrainedPolicy:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = tiny_models.save(folder / "other", "llama", TITLES)
    for file in tokenizer.glob("tokenizer*"):
        file.rename(folder / file.name)
    return PretrainedPolicy(type="pretrained", model=str(folder), lora=None)


def test_a_model_whose_forward_does_more_is_refused(tmp_path: Path):
    """Cohere scales its logits, which packed rows would silently leave out."""
    sizes = {**tiny_models._SIZES, "vocab_size": 300, "num_key_value_heads": 2}
    assert "packed rows" in refusal(save_as(CohereConfig(**sizes, logit_scale=0.25), tmp_path))


def test_a_model_that_knows_no_position_ids_is_refused(tmp_path: Path):
    """Bloom's ALiBi counts columns of the row: the second response of a packed row would stand too far away."""
    from transformers import BloomConfig

    told = refusal(save_as(BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=2), tmp_path))
    assert "packed rows" in told or "scaled_dot_product_attention" in told


def test_local_attention_inside_the_layers_is_refused(tmp_path: Path):
    """GPT-Neo's own window is far longer than the self-check's titles, which would not notice it."""
    from transformers import GPTNeoConfig

    config = GPTNeoConfig(
        vocab_size=300, hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]]
    )
    assert "local attention" in refusal(save_as(config, tmp_path))


def test_noise_in_training_that_is_no_dropout_is_refused(tmp_path: Path):
    """Mixtral may shake the input of its router, which has no rate that could be set to 0 for every model."""
    from transformers import MixtralConfig

    sizes = {**tiny_models._SIZES, "vocab_size": 300, "num_local_experts": 2}
    quiet = save_as(MixtralConfig(**sizes), tmp_path / "quiet")
    engine.refuse_other_arithmetic(
        store.build(quiet, PromptSettings(template="instruction"), TITLES, [1] * 8, seed=1), TITLES
    )
    told = refusal(save_as(MixtralConfig(**sizes, router_jitter_noise=0.9), tmp_path / "noisy"))
    assert "in training this model gives log-probabilities that differ by" in told


def test_broken_weights_are_refused(tmp_path: Path):
    settings = save_as(tiny_models.config("llama"), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        model.get_input_embeddings().weight[5:] = float("nan")
    model.save_pretrained(tmp_path)
    assert "not finite" in refusal(settings)
