"""A small Llama (Touvron et al. 2023, arXiv:2302.13971) from a config, with a BPE vocabulary learnt from the titles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rosepo_ray.config.policy import ScratchPolicy
from rosepo_ray.seeds import derive

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

END, PAD = "<|end|>", "<|pad|>"


def train_tokenizer(
    titles: Sequence[str], weights: Sequence[int], vocabulary: int, across_words: bool
) -> PreTrainedTokenizerFast:
    """Byte-level BPE (any title can be encoded) over the titles, each counted as often as it was taken, at least once:
    what is often written costs few tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=not across_words)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_repeated(titles, weights), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def _repeated(titles: Sequence[str], weights: Sequence[int]) -> Iterator[str]:
    for title, weight in zip(titles, weights, strict=True):
        for _ in range(max(1, weight)):
            yield title


def build_model(
    settings: ScratchPolicy, tokens: int, positions: int, seed: int, end_id: int, pad_id: int
) -> LlamaForCausalLM:
    """Freshly initialised weights, fixed by `seed`. Positions are rotary: more of them cost nothing."""
    # Seconds of imports, which whoever only needs the tokenizer is spared.
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=tokens,
        hidden_size=settings.hidden,
        intermediate_size=settings.hidden * 8 // 3 // 8 * 8,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=end_id,
        eos_token_id=end_id,
        pad_token_id=pad_id,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "policy", "init") % 2**31)
        return LlamaForCausalLM(config)
