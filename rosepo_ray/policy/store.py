"""A policy on disk: policy.json, tokenizer/, either model/ (all weights) or adapter/ (LoRA beside a named base), and
items/ where its prompts hold items' vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rosepo_ray import extras
from rosepo_ray.config.policy import PolicySettings, PretrainedPolicy, PromptSettings
from rosepo_ray.errors import RosepoError
from rosepo_ray.policy import pretrained, scratch
from rosepo_ray.policy.checks import engine
from rosepo_ray.policy.item_vectors import ItemVectors
from rosepo_ray.policy.model import Policy, causal_lm
from rosepo_ray.policy.prompts import Prompter

_SETTINGS: TypeAdapter[Any] = TypeAdapter(PolicySettings)


def build(
    settings: PolicySettings, prompt: PromptSettings, titles: list[str], popularity: list[int], seed: int
) -> Policy:
    """A policy before any training: from scratch, or a pre-trained base with fresh adapters."""
    if isinstance(settings, PretrainedPolicy):
        model, tokenizer = pretrained.load_base(settings, prompt.max_tokens)
        if settings.lora is not None:
            model = pretrained.add_lora(model, settings.lora, seed)
        _recompute_activations(model, settings)
        policy = Policy(model, tokenizer, settings, prompt)
        engine.refuse_other_arithmetic(policy, titles)
        return policy
    tokenizer = scratch.train_tokenizer(titles, popularity, settings.vocabulary, settings.across_words)
    # Positions cost nothing (they are rotary): a rejected text that is no title may be longer than every title.
    longest = 4 * Prompter(tokenizer, prompt).longest_response(titles)
    ends = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = scratch.build_model(settings, len(tokenizer), prompt.max_tokens + longest, seed, *ends)
    policy = Policy(model, tokenizer, settings, prompt)
    engine.refuse_other_arithmetic(policy, titles)
    return policy


def save(policy: Policy, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    policy.tokenizer.save_pretrained(folder / "tokenizer")
    adapted = hasattr(policy.model, "get_base_model")
    policy.model.save_pretrained(folder / ("adapter" if adapted else "model"))
    if policy.items is not None:
        policy.items.save(folder / "items")
    description = {"format": 1, "policy": policy.settings.model_dump(), "prompt": policy.prompt.model_dump()}
    (folder / "policy.json").write_text(json.dumps(description, indent=2))


def load(folder: Path, device: str | torch.device = "cpu", trainable: bool = False, base: str | None = None) -> Policy:
    """The policy saved in `folder`; an adapter's base comes from the folder `base` where one is given (a packaged
    model carries it), else from where it was trained. Raises RosepoError where the folder holds none."""
    file = Path(folder) / "policy.json"
    if not file.is_file():
        raise RosepoError(f"{folder} holds no policy (policy.json is missing)")
    description = json.loads(file.read_text())
    settings = _SETTINGS.validate_python(description["policy"])
    if base is not None and isinstance(settings, PretrainedPolicy):
        settings = settings.model_copy(update={"model": base, "revision": None})
    prompt = PromptSettings.model_validate(description["prompt"])
    tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "tokenizer")
    if (Path(folder) / "adapter").is_dir():
        extras.need("peft", "peft", f"the adapter in {folder}")
        from peft import PeftModel

        base, _ = pretrained.load_base(settings, prompt.max_tokens)
        model: Any = PeftModel.from_pretrained(base, str(Path(folder) / "adapter"), is_trainable=trainable)
        if not trainable:  # whoever only scores need not add the adapter to the weights in every pass
            model.merge_adapter()
    else:
        config = AutoConfig.from_pretrained(Path(folder) / "model")
        pretrained.clear_dropout_rates(config)
        model = AutoModelForCausalLM.from_pretrained(
            Path(folder) / "model", config=config, dtype=torch.float32, attn_implementation="sdpa"
        )
    pretrained.remove_dropout(model)
    if trainable:
        _recompute_activations(model, settings)
    vectors = ItemVectors.load(Path(folder) / "items").to(device) if (Path(folder) / "items").is_dir() else None
    return Policy(model.to(device), tokenizer, settings, prompt, vectors)


def _recompute_activations(model: Any, settings: PolicySettings) -> None:
    if isinstance(settings, PretrainedPolicy) and settings.gradient_checkpointing:
        causal_lm(model).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
