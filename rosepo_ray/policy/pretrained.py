"""Any Hugging Face causal language model: by hub name, by local folder, or the sample that pip can carry."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rosepo_ray.config import LoraSettings, PretrainedPolicy
from rosepo_ray.errors import BadInput
from rosepo_ray.seeds import derive

SAMPLE_PREFIX = "sample:"


def source_folder(settings: PretrainedPolicy) -> str:
    """What transformers loads: the hub name or folder, or the folder of the converted sample."""
    if not settings.model.startswith(SAMPLE_PREFIX):
        return settings.model
    from rosepo_ray.data import samples

    return str(_converted(samples.fetch(settings.model.removeprefix(SAMPLE_PREFIX))["gguf"]))


@contextmanager
def _loading(settings: PretrainedPolicy) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise BadInput(
            f"policy.model '{settings.model}' cannot be loaded ({str(error).splitlines()[0]}); give a hub name that "
            "this machine can reach or a folder written by save_pretrained"
        ) from error


def check(settings: PretrainedPolicy, longest: int) -> Any:
    """The tokenizer of a model that can be used for prompts of `longest` tokens; loads no weights.

    Raises BadInput where there is no such model or no end token, where prompts do not fit its positions, or where it
    attends through a sliding window (packed rows would not respect it).
    """
    source = source_folder(settings)
    with _loading(settings):
        config = AutoConfig.from_pretrained(source, revision=settings.revision)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=settings.revision)
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise BadInput(
            f"{settings.model} attends through a sliding window of {config.sliding_window} tokens, which packed rows "
            "do not respect; use a model with full attention"
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and longest >= positions:
        raise BadInput(
            f"prompt.max_tokens {longest} leaves no room for a title in the {positions} positions of {settings.model}; "
            "lower it"
        )
    if tokenizer.eos_token_id is None:
        raise BadInput(f"the tokenizer of {settings.model} has no end token (eos), which must close a title")
    return tokenizer


def load_base(settings: PretrainedPolicy, longest: int) -> tuple[Any, Any]:
    """The base model in fp32 and its tokenizer. Raises BadInput as :func:`check` does."""
    tokenizer = check(settings, longest)
    with _loading(settings):
        model = AutoModelForCausalLM.from_pretrained(
            source_folder(settings), revision=settings.revision, dtype=torch.float32, attn_implementation="sdpa"
        )
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, tokenizer


def add_lora(model: Any, settings: LoraSettings, seed: int) -> Any:
    """`model` behind fresh adapters, initialised by `seed`; dropout is 0, since alignment needs it so."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "policy", "lora") % 2**31)
        return get_peft_model(
            model,
            LoraConfig(
                r=settings.r,
                lora_alpha=settings.alpha,
                lora_dropout=0.0,
                target_modules=settings.targets,
                task_type="CAUSAL_LM",
            ),
        )


def _converted(gguf: Path) -> Path:
    """A safetensors folder made once from the GGUF file beside it.

    The object that transformers builds from GGUF cannot be saved, so its weights move into a fresh model whose config
    names no quantisation.
    """
    folder = gguf.parent / (gguf.stem + "-safetensors")
    if (folder / "tokenizer_config.json").is_file():
        return folder
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    values = {k: v for k, v in loaded.config.to_dict().items() if k not in ("quantization_config", "architectures")}
    fresh = LlamaForCausalLM(LlamaConfig(**values))
    fresh.load_state_dict(loaded.state_dict())
    fresh.tie_weights()
    # Two processes may convert at once: each into a folder of its own, the first to rename wins.
    with tempfile.TemporaryDirectory(dir=gguf.parent) as temporary:
        fresh.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        with suppress(OSError):
            Path(temporary).chmod(0o755)
            Path(temporary).rename(folder)
        Path(temporary).mkdir(exist_ok=True)
    return folder
