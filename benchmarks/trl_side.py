"""TRL's DPOTrainer on the same pairs: its own dataset preparation, collator, loss and backward pass.

Options, as a careful user of a CPU would set them: bf16 and gradient checkpointing off (both are on by default, and
cost time here), no truncation, no logging, no evaluation. `padding_free` is switched off by TRL 1.16 itself, and it
always goes through its fused head; there is nothing else to choose but the batch, which the caller tunes. A cached
reference is TRL's `precompute_ref_log_probs`; a live one is computed in each step, with LoRA by switching the adapter
off. K rejected items are K pairs: its data set knows no other form.
"""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import torch
from sides import loss_of, packed_logps
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from workload import BETA, END, FIRST_WORD, PAD, UNKNOWN, Examples, Workload, adapted_model, base_model, shake

from rosepo_ray.config.policy import LoraSettings

COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps")


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One word per token id, so that TRL's own tokenisation yields exactly the ids of the workload."""
    words = {"<pad>": PAD, "<end>": END, "<unknown>": UNKNOWN}
    words |= {f"w{number}": number for number in range(FIRST_WORD, vocabulary)}
    made = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>", model_max_length=1024
    )


def pairs(batch: Examples) -> list[dict[str, str]]:
    """Each rejected response against the chosen one; TRL appends the end token."""

    def text(ids: list[int]) -> str:
        return " ".join(f"w{number}" for number in ids)

    return [
        {"prompt": text(prompt) + " ", "chosen": text(chosen[:-1]), "rejected": text(rejected[:-1])}
        for prompt, (chosen, *others) in zip(batch.prompts, batch.responses, strict=True)
        for rejected in others
    ]


def build_trainer(workload: Workload, batch: Examples, cached: bool, shaken: bool = False) -> Any:
    """A DPOTrainer whose policy and reference have the workload's weights; `shaken` moves the policy first."""
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    lora = LoraSettings()
    adapters = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=lora.targets, task_type="CAUSAL_LM"
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = DPOTrainer(
            model=base_model(workload),
            args=DPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                max_length=None,
                beta=BETA,
                precompute_ref_log_probs=cached,
                learning_rate=1e-4,
                weight_decay=0.01,
                max_grad_norm=1.0,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                dataloader_pin_memory=False,
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(pairs(batch)),
            processing_class=tokenizer(workload.vocabulary),
            peft_config=adapters if workload.lora else None,
        )
        ours = adapted_model(workload)
        if shaken:
            shake(ours)
        missing = trainer.model.load_state_dict(ours.state_dict(), strict=True)
        assert not missing.missing_keys
        trainer.create_optimizer()
        trainer.rows = [{k: row[k] for k in COLUMNS if k in row} for row in trainer.train_dataset]
    return trainer


class TrlStep:
    """One optimiser step on all pairs, `at_once` pairs per forward and backward pass."""

    def __init__(self, trainer: Any, at_once: int | None = None, rows: list[dict[str, Any]] | None = None) -> None:
        self.trainer, self.rows = trainer, rows or trainer.rows
        self.at_once = at_once or len(self.rows)

    def __call__(self) -> None:
        trainer, rows = self.trainer, self.rows
        parts = [rows[start : start + self.at_once] for start in range(0, len(rows), self.at_once)]
        trainer.current_gradient_accumulation_steps = len(parts)
        for part in parts:
            trainer.training_step(trainer.model, trainer.data_collator(part))
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.model.zero_grad()


def difference(workload: Workload, batch: Examples) -> dict[str, float]:
    """TRL's loss and ours on the same pairs, weights and reference, with a policy that has left its reference."""
    found: dict[str, float] = {}
    model = adapted_model(workload)
    if workload.lora:
        with torch.no_grad(), model.disable_adapter():
            reference_R = packed_logps(model, batch)
    else:
        with torch.no_grad():
            reference_R = packed_logps(model, batch)
    shake(model)
    with torch.no_grad():
        found["ours"] = float(loss_of(packed_logps(model, batch), reference_R, len(batch), epsilon=0.0)) / len(batch)
    for name, cached in (("trl_cached", True), ("trl_live", False)):
        if not (workload.lora or cached):
            continue  # without adapters a live reference is a second model, which TRL loads from a folder
        trainer = build_trainer(workload, batch, cached, shaken=True)
        with torch.no_grad():
            loss = trainer.compute_loss(trainer.model, trainer.data_collator(trainer.rows))
        found[name] = float(loss)
        found[f"{name}_minus_ours"] = found[name] - found["ours"]
    return found
