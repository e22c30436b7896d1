"""Every setting of a run, validated. The docstring below a field is its help text.

Imports neither torch nor ray, so that `--help` and `--dry-run` answer at once. How the values are gathered (recipe,
environment, command line) is in `config_sources.py`, which settings have no effect beside others in
`config_effects.py`.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """A frozen group of settings that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_no_switches(cls, values: Any) -> Any:
        """Python counts `true` as 1; in a recipe it is a slip."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None:
                kinds = get_args(field.annotation) or (field.annotation,)
                if bool not in kinds and (int in kinds or float in kinds):
                    raise ValueError(f"{name} is {str(value).lower()}, but a number is needed")
        return values


class RunSettings(Section):
    dir: str | None = None
    """Run directory (path or URI). Default: a fresh one under runs/. The same directory again resumes the run."""
    log: Literal["human", "json"] = "human"
    """Lines of the terminal and of run.log: for people, or one JSON object a line."""
    grace_seconds: float = Field(15.0, gt=0)
    """After SIGTERM or Ctrl-C, how long training may take for a checkpoint before the job ends without one. Leaving the
    cluster takes some seconds more; Kubernetes kills after 30."""


class Columns(Section):
    """Names of the columns in the user's files."""

    user: str = "user_id"
    """Column with the user's id."""
    item: str = "item_id"
    """Column with the item's id, in both files."""
    time: str | None = "timestamp"
    """Column with the time (integer, any unit) or null: then the order of the file counts."""
    rating: str | None = "rating"
    """Column with the rating; may be absent unless data.min_rating is set."""
    title: str = "title"
    """Column with the item's title, in the items file."""

    @model_validator(mode="after")
    def _distinct(self) -> Columns:
        names = {role: getattr(self, role) for role in ("user", "item", "time", "rating") if getattr(self, role)}
        for role, name in names.items():
            if doubled := [other for other in names if other != role and names[other] == name]:
                raise ValueError(
                    f"data.columns.{role} and data.columns.{doubled[0]} both name the column '{name}'; each needs one "
                    "of its own" + (", or null for the one that the log lacks" if doubled[0] in _OPTIONAL else "")
                )
        return self


_OPTIONAL = ("time", "rating")


class DataSettings(Section):
    sample: Literal["movielens-100k", "none"] = "movielens-100k"
    """A public sample fetched through pip, or `none` with your own files."""
    interactions: str | None = None
    """Interaction log: a file, a folder or a glob of Parquet, CSV, TSV, JSONL or RecBole .inter files."""
    items: str | None = None
    """Items with their titles: Parquet, CSV, TSV, JSONL or RecBole .item files."""
    columns: Columns = Columns()
    encoding: str = "utf-8"
    """Encoding of the text files (log and items), for example latin-1."""
    on_bad_row: Literal["fail", "drop"] = "fail"
    """Rows of the log that cannot be read: refuse the log, or leave them out, counted and listed in the table
    `dropped`."""
    on_unknown_item: Literal["drop", "fail"] = "drop"
    """Interactions with an item that the items file lacks: leave them out, counted, or refuse the log."""
    min_rating: float | None = None
    """Keep only interactions with at least this rating as taken; negatives still avoid the others."""
    split: Literal["auto", "time", "last_two"] = "auto"
    """`time`: 8:1:1 of the interactions by global time; `last_two`: each user's last two items; `auto`: by time if
    the log has one."""
    history: int = Field(10, ge=1)
    """Items of the past that a prompt shows at most."""
    candidates: int = Field(20, ge=2)
    """Size of the candidate set: the target and uniformly drawn others."""
    seed: int = 0
    """Seed of the candidates; part of the protocol, unlike `seed`."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str) -> str:
        """The encoding under Python's name for it, so that two spellings are one setting."""
        try:
            "".encode(name)
            return codecs.lookup(name).name
        except LookupError as error:
            raise ValueError(
                f"'{name}' is no text encoding that Python knows; give one such as latin-1 or cp1252"
            ) from error

    @model_validator(mode="after")
    def _ratings_known(self) -> DataSettings:
        if self.min_rating is not None and self.columns.rating is None:
            raise ValueError(
                f"data.min_rating {self.min_rating:g} needs ratings, but data.columns.rating is null; name the column, "
                "or set --data.min_rating null"
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> DataSettings:
        own = [name for name in ("interactions", "items") if getattr(self, name) is not None]
        if self.sample != "none" and own:
            raise ValueError(
                f"data.{own[0]} is given beside data.sample {self.sample}, and only one log can be used; "
                "add --data.sample none for your own files"
            )
        if self.sample == "none" and len(own) < 2:
            raise ValueError("data.sample is none, so data.interactions and data.items must both name files")
        return self


class LoraSettings(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) through peft."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """Scale: the update is multiplied by alpha / r."""
    targets: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the adapted modules."""


class ScratchPolicy(Section):
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
    max_tokens: int = Field(512, ge=32)
    """Positions of the model."""

    @model_validator(mode="after")
    def _divisible(self) -> ScratchPolicy:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"policy.hidden {self.hidden} must be a multiple of 2 x policy.heads ({self.heads})")
        return self


class PretrainedPolicy(Section):
    """Any Hugging Face causal language model."""

    type: Literal["pretrained"]
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
        """A folder as an absolute path, since workers run in another directory."""
        return str(Path(model).absolute()) if Path(model).is_dir() else model


PolicySettings = Annotated[ScratchPolicy | PretrainedPolicy, Field(discriminator="type")]


class PromptSettings(Section):
    template: Literal["titles", "instruction"] = "titles"
    """`titles`: the history's titles, each closed by the end token; `instruction`: a worded request."""
    list_candidates: bool = False
    """Show the candidate titles in the prompt (instruction only)."""
    max_tokens: int = Field(448, ge=16)
    """Longest prompt; a longer one loses its oldest history items first."""


class FitSettings(Section):
    """One training run: AdamW, linear warm-up, cosine decay to zero."""

    batch: int = Field(32, ge=1)
    """Rows per optimiser step over all workers; accumulation follows from it."""
    micro_batch: int = Field(32, ge=1)
    """Rows per forward pass and worker at most."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps that warm up."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay of matrices."""
    clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between checkpoints."""


class SftSettings(FitSettings):
    dense: bool = True
    """Loss on every title of windows of history + 1 items (titles prompt only); else on the target of each example."""
    steps: int = Field(600, ge=1)
    """Optimiser steps."""


class SftLongerSettings(Section):
    enabled: bool = True
    """Continue SFT for as many steps as alignment took: the control that a gain of the method must beat."""


class SasrecOracle(FitSettings):
    """SASRec (Kang and McAuley 2018, arXiv:1808.09781) with a full-catalogue softmax."""

    type: Literal["sasrec"] = "sasrec"
    hidden: int = Field(64, ge=8)
    """Width."""
    layers: int = Field(2, ge=1)
    """Transformer blocks."""
    heads: int = Field(2, ge=1)
    """Attention heads."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout, drawn per row."""
    batch: int = Field(128, ge=1)
    """Windows per optimiser step."""
    micro_batch: int = Field(128, ge=1)
    """Windows per forward pass and worker at most."""
    steps: int = Field(600, ge=1)
    """Optimiser steps."""
    folds: Literal[1, 2] = 1
    """2 trains two halves by user and judges each pair by the half that did not train on it."""

    @model_validator(mode="after")
    def _divisible(self) -> SasrecOracle:
        if self.hidden % self.heads:
            raise ValueError(f"oracle.hidden {self.hidden} must be a multiple of oracle.heads {self.heads}")
        return self


class PopularityOracle(Section):
    """Scores an item by log(1 + its training interactions)."""

    type: Literal["popularity"]


class ConstantOracle(Section):
    """The same epsilon for every pair: cDPO; 0 gives DPO. There is nothing to serve or to calibrate."""

    type: Literal["constant"]
    epsilon: float = Field(0.0, ge=0, le=1)
    """The label-smoothing factor."""


OracleSettings = Annotated[SasrecOracle | PopularityOracle | ConstantOracle, Field(discriminator="type")]


class SelfHard(Section):
    """The policy's own mistake: the wrong candidate that it finds most likely (helpfulness)."""

    type: Literal["self_hard"] = "self_hard"
    pick: Literal["argmax", "sample"] = "argmax"
    """`argmax`, or `sample` from softmax(log-probability / temperature)."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of `sample`."""


class Semantic(Section):
    """The item never taken whose title reads most like the history (against semantic hallucination)."""

    type: Literal["semantic"]
    top: int = Field(1, ge=1)
    """Draw uniformly from this many nearest items; 1 takes the nearest."""


class Popularity(Section):
    """An item never taken, drawn with probability proportional to popularity ** alpha (against popularity bias)."""

    type: Literal["popularity"]
    alpha: float = Field(1.0, ge=0)
    """Exponent."""


class Uniform(Section):
    """A wrong candidate drawn uniformly: the baseline."""

    type: Literal["uniform"]


class Mix(Section):
    """Each rejected item comes from one of the other strategies, drawn by weight."""

    type: Literal["mix"]
    self_hard: float = Field(0.0, ge=0)
    semantic: float = Field(0.0, ge=0)
    popularity: float = Field(0.0, ge=0)
    uniform: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _something(self) -> Mix:
        if self.self_hard + self.semantic + self.popularity + self.uniform <= 0:
            raise ValueError("rejection.strategy mix has only zero weights; give at least one a positive weight")
        return self


StrategySettings = Annotated[SelfHard | Semantic | Popularity | Uniform | Mix, Field(discriminator="type")]


class RejectionSettings(Section):
    strategy: StrategySettings = SelfHard()
    k: int = Field(1, ge=1)
    """Rejected items per example (distinct)."""
    examples: int | None = Field(None, ge=1)
    """Training examples turned into pairs, chosen by hash; null takes all."""
    validation_examples: int = Field(1000, ge=1)
    """Validation examples turned into pairs, for T and the oracle's calibration."""
    encoder: str = "tfidf"
    """Text encoder of titles: `tfidf` (lexical) or a sentence-transformers model by name or path."""


class Conservative(Section):
    """L = (1-e) softplus(-bD) + e softplus(bD)."""

    type: Literal["conservative"] = "conservative"


class Robust(Section):
    """L = [(1-e) softplus(-bD) - e softplus(bD)] / (1-2e) (rDPO, Chowdhury et al. 2024, arXiv:2403.00409)."""

    type: Literal["robust"]


ObjectiveSettings = Annotated[Conservative | Robust, Field(discriminator="type")]


class AlignSettings(FitSettings):
    objective: ObjectiveSettings = Conservative()
    beta: float = Field(0.1, gt=0)
    """Strength of the pull to the reference."""
    epsilon_max: float = Field(0.5, ge=0, le=1)
    """Upper bound of the personal smoothing factor."""
    sft_weight: float = Field(0.0, ge=0)
    """Weight of the SFT term on the chosen title (mean per token)."""
    epochs: int = Field(1, ge=1)
    """Passes over the pairs."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    replay: str | None = None
    """Folder of an earlier alignment stage whose smoothing table gives every epsilon; the oracle is not asked."""


class EvaluationSettings(Section):
    split: Literal["test", "validation"] = "test"
    """Which examples are judged. Choose hyper-parameters on validation."""
    examples: int | None = Field(None, ge=1)
    """Judge only this many examples of the split, chosen by hash of (data.seed, example); null judges all of them."""
    generate: bool = True
    """Let each policy write a title freely as well."""
    catalogue_examples: int | None = Field(1000, ge=0)
    """Rank the whole catalogue for this many of the judged examples, chosen by hash; null for all of them, 0 for none.
    The ranking is exact, to the tenth place."""
    beams: int = Field(0, ge=0)
    """For the same examples let each policy write a title under the constraint that it is one of the catalogue, by
    beam search of this width (1 is greedy); 0 does without."""
    batch: int = Field(64, ge=1)
    """Examples per forward pass at most when scoring (rejection too)."""
    tokens: int = Field(4096, ge=64)
    """Tokens per forward pass at most when scoring (rejection too), padding included: bounds its memory. A CPU is
    fastest where these fit its cache; give a GPU more."""
    cache_mib: int = Field(1024, ge=1)
    """Memory for the keys and values of a search through the catalogue, in MiB; a search that would need more gives
    way to scoring every title in chunks, with the same result."""
    draws: int = Field(2000, ge=100)
    """Bootstrap draws (of users)."""


class MlflowSettings(Section):
    tracking_uri: str | None = None
    """Default: MLFLOW_TRACKING_URI, else a sqlite file beside the run directory."""
    experiment: str = "rosepo"
    """Experiment name."""
    model: str = "rosepo-recommender"
    """Registered model name."""


class ClusterSettings(Section):
    address: str | None = None
    """Address of a running Ray cluster; default: RAY_ADDRESS, else a local one is started for the run."""
    autoscaling: bool = False
    """The cluster adds nodes on demand: do not compare the run's needs with the CPUs that are there at the start."""
    workers: int = Field(1, ge=1)
    """Training workers (DDP ranks)."""
    use_gpu: bool = False
    """One GPU per training worker (bf16) and per scoring actor (fp32)."""
    threads: int | None = Field(None, ge=1)
    """CPU threads per training worker. Default: the machine's cores divided by the workers."""
    actors: int = Field(1, ge=1)
    """Ray Data actors that score examples (rejection, evaluation)."""
    oracle_replicas_min: int = Field(1, ge=1)
    """Serve replicas of the oracle at least."""
    oracle_replicas_max: int = Field(1, ge=1)
    """Serve replicas of the oracle at most (autoscaled)."""
    max_failures: int = Field(3, ge=0)
    """Restarts of the training workers before a run fails."""

    @model_validator(mode="after")
    def _ordered(self) -> ClusterSettings:
        if self.oracle_replicas_max < self.oracle_replicas_min:
            raise ValueError(
                f"cluster.oracle_replicas_max {self.oracle_replicas_max} is below cluster.oracle_replicas_min "
                f"{self.oracle_replicas_min}"
            )
        return self


class PromotionSettings(Section):
    hr_margin: float = Field(0.01, ge=0)
    """HR@1 may fall by this much at most (lower end of the paired interval)."""
    gap_margin: float = Field(5.0, ge=0)
    """The popularity gap |ARP - ARP of the targets| may grow by this much at most (upper end of the interval)."""


class Settings(Section):
    seed: int = 1
    """Seed of everything but the protocol (see data.seed)."""
    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    policy: PolicySettings = ScratchPolicy()
    prompt: PromptSettings = PromptSettings()
    sft: SftSettings = SftSettings()
    sft_longer: SftLongerSettings = SftLongerSettings()
    oracle: OracleSettings = SasrecOracle()
    rejection: RejectionSettings = RejectionSettings()
    align: AlignSettings = AlignSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    mlflow: MlflowSettings = MlflowSettings()
    cluster: ClusterSettings = ClusterSettings()
    promotion: PromotionSettings = PromotionSettings()

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if self.sft.dense and self.prompt.template != "titles":
            raise ValueError(
                f"sft.dense needs prompt.template titles, but it is {self.prompt.template}; set sft.dense false"
            )
        bound = self.oracle.epsilon if self.oracle.type == "constant" else self.align.epsilon_max
        if self.align.objective.type == "robust" and bound > 0.4 and self.align.replay is None:
            name = "oracle.epsilon" if self.oracle.type == "constant" else "align.epsilon_max"
            raise ValueError(
                f"{name} {bound} with align.objective robust divides by 1-2e near 0; set it to 0.4 or less"
            )
        if self.policy.type == "scratch" and self.prompt.max_tokens >= self.policy.max_tokens:
            raise ValueError(
                f"prompt.max_tokens {self.prompt.max_tokens} leaves no room for a title in policy.max_tokens "
                f"{self.policy.max_tokens}; lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _enough_candidates(self) -> Settings:
        strategy, pool = self.rejection.strategy, self.data.candidates - 1
        from_catalogue = strategy.type in ("semantic", "popularity") or (
            isinstance(strategy, Mix) and strategy.semantic + strategy.popularity > 0
        )
        if not from_catalogue and self.rejection.k > pool:
            raise ValueError(
                f"rejection.k {self.rejection.k} asks for more distinct wrong candidates than data.candidates leaves "
                f"({pool}); lower it"
            )
        return self

    @model_validator(mode="after")
    def _rows_for_every_worker(self) -> Settings:
        batches = {"sft.batch": self.sft.batch, "align.batch": self.align.batch}
        if self.oracle.type == "sasrec":
            batches["oracle.batch"] = self.oracle.batch
        for name, batch in batches.items():
            if batch < self.cluster.workers:
                raise ValueError(
                    f"cluster.workers {self.cluster.workers} share the {batch} rows of a step ({name}), so some would "
                    "never have one; lower the one or raise the other"
                )
        return self
