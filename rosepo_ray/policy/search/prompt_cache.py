"""Keys and values of prompts, computed once, and of whatever is read on top of them: the prompts are never copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from rosepo_ray.errors import RosepoError
from rosepo_ray.policy.engine.attention import additive
from rosepo_ray.policy.engine.module import logits_at_once
from rosepo_ray.policy.model import Policy, causal_lm
from rosepo_ray.policy.prompt_groups import bytes_per_slot
from rosepo_ray.policy.segments import EncodedPrompt, decoder_input, item_places

NOT_A_NUMBER = (
    "the policy gives log-probabilities that are not a number: its weights are broken, or its training diverged; train "
    "it again, or take an earlier checkpoint"
)


class CachedPrompts:
    """B prompts (padded at their ends to P columns) and the tokens read after them, one slot each, in every layer."""

    def __init__(self, policy: Policy, prompts: Sequence[EncodedPrompt]) -> None:
        inner = causal_lm(policy.model).eval()
        self._decoder = getattr(inner, inner.base_model_prefix)
        self._head: Any = inner.get_output_embeddings()
        self.device, self.bytes_per_slot = policy.device, bytes_per_slot(policy)
        self.length_B = np.array([len(prompt) for prompt in prompts])
        self.width = int(self.length_B.max())
        """P."""
        ids = torch.full((len(prompts), self.width), policy.pad_id)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt.ids)
        self._cache = Cache(layer_class_to_replicate=_Slots)
        # Causal attention never looks at the padding, which stands at the end.
        given = decoder_input(self._decoder, ids.to(self.device), item_places(prompts), policy.items)
        hidden_BPH = self._decoder(**given, past_key_values=self._cache, use_cache=True).last_hidden_state
        self.last_BH = hidden_BPH[torch.arange(len(prompts)), torch.from_numpy(self.length_B) - 1]
        """The hidden state that predicts the first token of a title."""
        self.floor = torch.finfo(hidden_BPH.dtype).min
        """What the additive mask holds where a key is not seen."""
        seen = torch.arange(self.width) < torch.from_numpy(self.length_B)[:, None]
        self.mask_BP = additive(seen, hidden_BPH.dtype)

    @property
    def slots(self) -> int:
        """Keys in the cache: P and the tokens read since."""
        return self._cache.get_seq_length()

    def read(self, tokens_BW: np.ndarray, positions_BW: np.ndarray, mask_B1WS: Tensor) -> Tensor:
        """Hidden states [B, W, H] of W tokens after each prompt; the mask covers all slots, the W new ones too."""
        return self._decoder(
            input_ids=torch.from_numpy(tokens_BW).to(self.device),
            position_ids=torch.from_numpy(positions_BW).to(self.device),
            attention_mask=mask_B1WS.to(self.device),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state

    def forget(self) -> None:
        """Back to the prompts alone."""
        for layer in self._cache.layers:
            layer.crop(self.width)

    def keep(self, rows: np.ndarray) -> None:
        """Go on with some of the prompts."""
        index = torch.from_numpy(rows)
        self.length_B, self.mask_BP = self.length_B[rows], self.mask_BP[index]
        for layer in self._cache.layers:
            layer.select(index.to(self.device))

    def logps(self, hidden_NH: Tensor, owner_E: np.ndarray, token_E: np.ndarray) -> np.ndarray:
        """log p(token | hidden[owner]) [E], float32, never above 0; the owners rise."""
        found = np.empty(len(owner_E), np.float32)
        at_once = max(64, logits_at_once(self.device) // self._head.weight.shape[0])
        for start in range(0, len(hidden_NH), at_once):
            logits_NV = self._head(hidden_NH[start : start + at_once]).float()
            here = slice(*np.searchsorted(owner_E, [start, start + at_once]))
            owner = torch.from_numpy(owner_E[here] - start).to(self.device)
            picked = logits_NV[owner, torch.from_numpy(token_E[here]).to(self.device)]
            found[here] = (picked - logits_NV.logsumexp(-1)[owner]).clamp_(max=0).cpu().numpy()
        if np.isnan(found).any():
            raise RosepoError(NOT_A_NUMBER)
        return found


class _Slots(CacheLayerMixin):
    """One layer's keys and values [B, heads, slots, size], written in place into buffers that grow by half."""

    def __init__(self) -> None:
        super().__init__()
        self.used = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values, self.is_initialized = key_states, value_states, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start, self.used = self.used, self.used + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            return key_states, value_states
        room = self.keys.shape[2]
        if self.used > room:
            room = max(self.used, room * 3 // 2)
            self.keys, self.values = (_enlarged(old, start, room) for old in (self.keys, self.values))
        self.keys[:, :, start : self.used] = key_states
        self.values[:, :, start : self.used] = value_states
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def crop(self, slots: int) -> None:
        self.used = slots

    def select(self, rows: Tensor) -> None:
        self.keys = self.keys[:, :, : self.used].index_select(0, rows)
        self.values = self.values[:, :, : self.used].index_select(0, rows)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return -1


def _enlarged(old: Tensor, used: int, room: int) -> Tensor:
    new = old.new_empty((*old.shape[:2], room, old.shape[3]))
    new[:, :, :used] = old[:, :, :used]
    return new
