"""Is there a model that can be used? Asked before the first stage, so that no hour is lost on one that is not there."""

from __future__ import annotations

from pathlib import Path

from rosepo_ray import extras
from rosepo_ray.config.policy import PretrainedPolicy, is_hub_name
from rosepo_ray.errors import BadInput
from rosepo_ray.policy import pretrained

_SECONDS = 10.0
"""How long the hub may take to answer; transformers itself would try each of its files for a minute."""


def refuse_unusable_model(settings: PretrainedPolicy, longest: int) -> None:
    """Raises BadInput where peft is missing for LoRA, or `policy.model` is no causal language model whose weights,
    tokenizer and context fit.

    Weights of a folder are compared by name and shape without reading them; those of a hub name are not fetched.
    Fetches and converts a sample model, so that no two workers do it at once.
    """
    if settings.lora is not None:
        extras.need("peft", "peft", "policy.lora")
    source = pretrained.source_folder(settings)
    here = not is_hub_name(source)
    if here:
        _refuse_no_model(settings, Path(source))
    else:
        _refuse_unreachable(settings)
    pretrained.refuse_unfit_model(settings, longest)
    if here:
        _refuse_other_weights(settings, source)
    if settings.lora is not None and settings.lora.targets != "all-linear":
        _refuse_missing_targets(settings, list(settings.lora.targets))


def _refuse_no_model(settings: PretrainedPolicy, folder: Path) -> None:
    told = f"policy.model '{settings.model}'"
    advice = "give a folder written by save_pretrained, or a hub name"
    if not folder.exists():
        raise BadInput(f"{told} does not exist; {advice}")
    if not folder.is_dir():
        raise BadInput(f"{told} is a file; {advice}")
    if (folder / "adapter_config.json").exists():
        raise BadInput(f"{told} holds an adapter and not a model; give the model it belongs to, or merge the two first")
    if not (folder / "config.json").is_file():
        raise BadInput(f"{told} holds no model (config.json is missing); {advice}")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise BadInput(f"{told} holds no weights (model.safetensors is missing); {advice}")


def _refuse_unreachable(settings: PretrainedPolicy) -> None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    try:
        if isinstance(try_to_load_from_cache(settings.model, "config.json", revision=settings.revision), str):
            return
        get_hf_file_metadata(hf_hub_url(settings.model, "config.json", revision=settings.revision), timeout=_SECONDS)
    except Exception as error:  # the errors of the hub's client and of its transport have no common root
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise BadInput(
            f"policy.model '{settings.model}' is no folder here and cannot be had from {constants.ENDPOINT} ({first}); "
            "check the name and the connection, or give a folder written by save_pretrained"
        ) from error


def _refuse_missing_targets(settings: PretrainedPolicy, targets: list[str]) -> None:
    """A name that matches no module would be ignored."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    with pretrained.loading(settings), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(pretrained.config_of(settings), trust_remote_code=False)
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]
    missing = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in names)]
    if missing:
        known = sorted({name.rpartition(".")[2] for name in names})
        raise BadInput(
            f"policy.lora.targets names {', '.join(missing)}, which no linear layer of {settings.model} is called; it "
            f"has {', '.join(known)}"
        )


def _refuse_other_weights(settings: PretrainedPolicy, source: str) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # its report of what differs fills a screen; the sentence says it
    try:
        with pretrained.loading(settings):
            _, info = AutoModelForCausalLM.from_pretrained(
                source,
                trust_remote_code=False,
                attn_implementation="sdpa",
                device_map="meta",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    finally:
        logging.set_verbosity(verbosity)
    missing, other = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    if other:
        name, there, wanted = other[0]
        raise BadInput(
            f"the weights of policy.model '{settings.model}' do not fit its config.json: {len(other)} have another "
            f"size, among them {name} ({list(there)}, not {list(wanted)}); save model and config together"
        )
    if missing:
        raise BadInput(
            f"the weights of policy.model '{settings.model}' do not fit its config.json: {len(missing)} are missing, "
            f"among them {missing[0]}; save model and config together"
        )
