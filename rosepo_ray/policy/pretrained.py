"""Any Hugging Face causal language model: by hub name, by local folder, or the sample that pip can carry."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from rosepo_ray import extras
from rosepo_ray.config.policy import LoraSettings, PretrainedPolicy
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.seeds import derive

SAMPLE_PREFIX = "sample:"


def source_folder(settings: PretrainedPolicy) -> str:
    """What transformers loads: the hub name or folder, or the folder of the converted sample."""
    if not settings.model.startswith(SAMPLE_PREFIX):
        return str(Path(settings.model).expanduser()) if settings.model.startswith("~") else settings.model
    from rosepo_ray.data import samples

    return str(_converted(samples.fetch(settings.model.removeprefix(SAMPLE_PREFIX))["gguf"]))


@contextmanager
def loading(settings: PretrainedPolicy) -> Iterator[None]:
    """Whatever transformers raises on a model that cannot be loaded, as one sentence."""
    try:
        yield
    except RosepoError:
        raise
    except Exception as error:  # the errors of transformers, its config classes and safetensors have no common root
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(
            f"policy.model '{settings.model}' cannot be loaded ({first}); give a hub name that this machine can reach "
            "or a folder written by save_pretrained"
        ) from error


def config_of(settings: PretrainedPolicy) -> Any:
    """The model's config; never runs code that comes with a model."""
    with loading(settings):
        return AutoConfig.from_pretrained(source_folder(settings), revision=settings.revision, trust_remote_code=False)


def context(config: Any) -> int | None:
    """Tokens that prompt and title may have together: the positions of the model, or the window through which it
    attends if that is shorter (packed rows would not respect it); None where nothing bounds them."""
    limits = [getattr(config, "max_position_embeddings", None), _window(config)]
    return min((limit for limit in limits if limit is not None), default=None)


def _window(config: Any) -> int | None:
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and not any("sliding" in kind or "chunked" in kind for kind in kinds):
        return None
    slides = getattr(config, "use_sliding_window", True)
    found = [getattr(config, "sliding_window", None) if slides else None, getattr(config, "attention_chunk_size", None)]
    return min((int(size) for size in found if size), default=None)


def refuse_unfit_model(settings: PretrainedPolicy, longest: int) -> Any:
    """The tokenizer of a model that can be used for prompts of `longest` tokens; loads no weights.

    Raises BadInput where there is no such model or no end token, where it is no causal language model, where prompts
    do not fit its positions or its attention window, or where its tokenizer belongs to another model.
    """
    config = config_of(settings)
    _refuse_other_kinds(settings, config)
    if "local" in (getattr(config, "attention_layers", None) or ()):
        raise BadInput(
            f"{settings.model} has layers with local attention, which packed rows do not respect; use a model with "
            "full attention"
        )
    window = _window(config)
    if window is not None and longest >= window:
        raise BadInput(
            f"{settings.model} attends through a sliding window of {window} tokens, which packed rows do not respect, "
            f"and prompt.max_tokens is {longest}; lower it below {window}, or use a model with full attention"
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and longest >= positions:
        raise BadInput(
            f"prompt.max_tokens {longest} leaves no room for a title in the {positions} positions of {settings.model}; "
            "lower it"
        )
    with loading(settings):
        tokenizer = AutoTokenizer.from_pretrained(
            source_folder(settings), revision=settings.revision, trust_remote_code=False
        )
    _refuse_other_tokenizers(settings, config, tokenizer)
    return tokenizer


def _refuse_other_kinds(settings: PretrainedPolicy, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    written = list(getattr(config, "architectures", None) or [])
    causal = {name for names in NAMES.values() for name in ([names] if isinstance(names, str) else names)}
    # BERT and its kin have a causal class too, which is one only if the config says so.
    masked = config.model_type in MASKED and not getattr(config, "is_decoder", False)
    encodes = config.is_encoder_decoder or masked
    if encodes or config.model_type not in NAMES or (written and not causal & set(written)):
        kind = written[0] if written else config.model_type
        raise BadInput(
            f"policy.model '{settings.model}' is a {kind}, which does not write text from left to right; give a causal "
            "language model (its config names a class ...ForCausalLM or ...LMHeadModel)"
        )


def _refuse_other_tokenizers(settings: PretrainedPolicy, config: Any, tokenizer: Any) -> None:
    if tokenizer.eos_token_id is None:
        raise BadInput(f"the tokenizer of {settings.model} has no end token (eos), which must close a title")
    sample = tokenizer("Title", add_special_tokens=False)["input_ids"]
    if not sample or set(sample) == {tokenizer.unk_token_id}:
        # transformers makes an empty tokenizer where a folder has a config but no tokenizer files.
        raise BadInput(
            f"the tokenizer of policy.model '{settings.model}' knows no letter, as one without its files does; save it "
            "beside the model with tokenizer.save_pretrained"
        )
    # Tokens that were added without a row of weights do no harm while no title is written with them.
    used = set(tokenizer.get_vocab().values()) - set(tokenizer.get_added_vocab().values())
    largest, rows = max({*used, tokenizer.eos_token_id, tokenizer.pad_token_id or 0}), config.vocab_size
    if largest >= rows:
        raise BadInput(
            f"the tokenizer of policy.model '{settings.model}' gives tokens up to {largest}, but the model knows "
            f"{rows}: it belongs to another model; save the right one beside it"
        )


def load_base(settings: PretrainedPolicy, longest: int) -> tuple[Any, Any]:
    """The base model in fp32, without dropout, and its tokenizer. Raises as :func:`refuse_unfit_model`."""
    tokenizer = refuse_unfit_model(settings, longest)
    config = config_of(settings)
    clear_dropout_rates(config)
    with loading(settings):
        model = AutoModelForCausalLM.from_pretrained(
            source_folder(settings),
            revision=settings.revision,
            config=config,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation="sdpa",
        )
    remove_dropout(model)
    return model, tokenizer


def remove_dropout(model: torch.nn.Module) -> None:
    """Training computes what scoring computes, whatever dropout the model was made with (GPT-2's is 0.1).

    Everything random in a run derives from (seed, row, purpose), which torch's own dropout does not: two runs, or one
    that was killed and resumed, would differ. And alignment compares the policy with the stored log-probabilities of
    the reference, which it must equal at its first step.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        clear_dropout_rates(module)
        if isinstance(own := getattr(module, "config", None), PreTrainedConfig):
            clear_dropout_rates(own)


def clear_dropout_rates(holder: Any) -> None:
    """Set the rates that a config or a module names (`attn_pdrop`, `attention_dropout`, `layerdrop`) to 0."""
    for name, value in list(vars(holder).items()):
        if isinstance(value, PreTrainedConfig) and isinstance(holder, PreTrainedConfig):
            clear_dropout_rates(value)
        elif "drop" in name and isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
            setattr(holder, name, 0.0)


def add_lora(model: Any, settings: LoraSettings, seed: int) -> Any:
    """`model` behind fresh adapters, initialised by `seed`; dropout is 0, since alignment needs it so."""
    extras.need("peft", "peft", "policy.lora")
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
    extras.need("gguf", "peft", f"the sample {folder.parent.name}")
    from transformers import LlamaConfig, LlamaForCausalLM

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
