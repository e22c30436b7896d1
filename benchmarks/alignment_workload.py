"""The alignment stage's workload for `ray_overhead.py`: a log, a base model of the wanted size, and every stage before
alignment, run as the package runs them.

The policy is a Llama from a config with random weights behind LoRA adapters (r = 16) and a byte-level BPE; prompts list
the ten history and twenty candidate titles. How good the policy is has no effect on the time of a step, so SFT and the
oracle train for a few steps only.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rosepo_ray.config.training import FitSettings
from rosepo_ray.run.settings import Settings

if TYPE_CHECKING:
    from rosepo_ray.programs.sft import SftProgram

ITEMS = 1_682  # as MovieLens-100K
WORDS = 1_500
USERS, TAKEN = 160, 40
HISTORY, CANDIDATES, REJECTED = 10, 20, 3
BEFORE = ("data", "sft", "oracle", "reject", "calibrate")


@dataclass(frozen=True)
class Size:
    """Of the Llama: `large` has the 30 million parameters of the benchmarks' common workload, `small` is the
    quickstart's shape."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int = 8_192


SIZES = {"large": Size(512, 1_408, 8, 8), "small": Size(128, 344, 4, 4)}


def titles(seed: int = 1) -> list[str]:
    """ITEMS distinct titles of five to eight made-up words."""
    rng = np.random.default_rng(seed)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    words = ["".join(rng.choice(syllables, rng.integers(2, 4))) for _ in range(WORDS)]
    return [f"{' '.join(rng.choice(words, rng.integers(5, 9))).capitalize()} {n}" for n in range(ITEMS)]


def write_log(folder: Path, seed: int = 1) -> dict[str, str]:
    """interactions.csv and items.csv below `folder`; the settings that name them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("item_id", "title"), *((f"i{n}", title) for n, title in enumerate(titles(seed)))])
    weight = 1 / (np.arange(ITEMS) + 20.0)
    rows = []
    for user in range(USERS):
        taken = rng.choice(ITEMS, TAKEN, replace=False, p=weight / weight.sum())
        times = np.sort(rng.integers(0, 10_000_000, TAKEN))
        rows += [(f"u{user}", f"i{item}", time, 5) for item, time in zip(taken.tolist(), times.tolist(), strict=True)]
    with (folder / "interactions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "item_id", "timestamp", "rating"), *rows])
    return {"interactions": str(folder / "interactions.csv"), "items": str(folder / "items.csv")}


def write_base(folder: Path, size: Size, seed: int = 1) -> Path:
    """Model and tokenizer below `folder`, as a user's own model folder would be."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rosepo_ray.policy import scratch
    from rosepo_ray.policy.prompts import instruction

    # The wording of the prompt counts as text that the tokenizer has seen, as it has in any real one.
    texts = titles(seed) + [instruction([], [])] * 20
    tokenizer = scratch.train_tokenizer(texts, [1] * len(texts), size.vocabulary, across_words=False)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(folder: Path, size: str, batch: int, steps: int) -> Settings:
    """The run's settings; log and base are written below `folder` where they are not there yet."""
    base = folder / "base"
    if not (base / "tokenizer_config.json").is_file():
        write_base(base, SIZES[size])
    values = {
        "data": {"sample": "none", **write_log(folder / "log"), "history": HISTORY, "candidates": CANDIDATES},
        "policy": {"type": "pretrained", "model": str(base), "lora": {"r": 16, "alpha": 32}},
        "prompt": {"template": "instruction", "list_candidates": True},
        "sft": {"dense": False, "steps": 2, "batch": 2, "lr": 1e-4},
        "oracle": {"type": "sasrec", "hidden": 96, "steps": 20},  # quickstart's width
        # Uniform: that strategy needs the policy's score of the answers alone, which is cheaper to prepare.
        "rejection": {
            "strategy": {"type": "uniform"},
            "k": REJECTED,
            "examples": batch * steps,
            "validation_examples": 16,
        },
        "align": {"batch": batch, "micro_batch": batch, "checkpoint_every": 1_000_000},
        # One training thread on both sides, whatever the machine: the rest is there for Ray.
        "cluster": {"workers": 1, "threads": 1, "actors": 1},
    }
    return Settings.model_validate(values)


def prepare(settings: Settings, run_dir: str) -> dict[str, str]:
    """Run the stages before alignment below `run_dir`; the folders that alignment reads.

    Data, rejection and calibration are the package's stage functions, for which a Ray cluster must be there. SFT and
    oracle train in this process, by the same programs and loop: that saves the start of two groups of workers.
    """
    from rosepo_ray.run import pipeline

    planned = {step.stage.name: step for step in pipeline.plan(settings, run_dir)}
    trained = {"sft": _sft, "oracle": _oracle}
    for name in BEFORE:
        step, began = planned[name], time.perf_counter()
        trained.get(name, step.stage.start)(settings, step.inputs, step.folder)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return dict(planned["align"].inputs)


def sft_program(settings: Settings, data: str) -> SftProgram:
    """The SFT stage's own program, for this process."""
    from rosepo_ray.stages.sft import Source, program
    from rosepo_ray.training.world import World

    source = Source(
        data,
        None,
        settings.seed,
        settings.policy,
        settings.prompt,
        settings.sft.dense,
        settings.sft.dropout,
        settings.data,
        settings.scoring,
    )
    return program(source, settings.sft, World())


def _sft(settings: Settings, inputs: Mapping[str, str], out: str) -> None:
    from rosepo_ray.training import in_process

    made = sft_program(settings, inputs["data"])
    in_process.train(made, settings.sft, settings.sft.steps)
    made.save(Path(out, "model"))


def _oracle(settings: Settings, inputs: Mapping[str, str], out: str) -> None:
    from rosepo_ray.oracle import store
    from rosepo_ray.oracle.protocol import Trained
    from rosepo_ray.stages.oracle import making, program, sequences
    from rosepo_ray.training import in_process
    from rosepo_ray.training.world import World

    data, history, seed = inputs["data"], settings.data.history, settings.seed

    def train(name: str, module: Any, users: Any, fit: FitSettings, steps: int) -> Trained:
        made = program(data, module, users, fit, history, seed, World())
        in_process.train(made, fit, steps)
        return Trained(made.module, sequences(data, users).popularity())

    store.save(settings.oracle.prepare(making(data, history, seed, train)), Path(out, "oracle"))
