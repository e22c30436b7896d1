"""Items' vectors in prompts: a conventional recommender's embeddings, projected into the language model's space (LLaRA:
Liao et al. 2024, arXiv:2312.02445)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rosepo_ray.errors import RosepoError

_IDS, _TENSORS = "ids.json", "vectors.safetensors"


class ItemVectors(nn.Module):
    """Frozen embeddings of d numbers an item, and the projection that is trained: Linear(d, H), GELU, Linear(H, H).

    Row 0 of the table stands for every item that the source of the embeddings does not know, and is trained too.
    """

    table: Tensor

    def __init__(self, ids: Sequence[str], embeddings: Tensor, hidden: int) -> None:
        """`embeddings` [N, d] of the items `ids` [N]; `hidden` is H, the width of the language model."""
        super().__init__()
        if len(ids) != len(embeddings) or len(set(ids)) != len(ids):
            raise RosepoError(f"{len(ids)} item ids ({len(set(ids))} distinct) came with {len(embeddings)} embeddings")
        self.ids = list(ids)
        self._rows = {item: row for row, item in enumerate(self.ids, 1)}
        width = embeddings.shape[1]
        self.register_buffer("table", embeddings.to(torch.float32))
        self.unknown = nn.Parameter(torch.zeros(1, width))
        self.project = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def row(self, item: str | None) -> int:
        """Where the item stands in the table; 0 where it is not known."""
        return 0 if item is None else self._rows.get(item, 0)

    def forward(self, rows_E: Tensor) -> Tensor:
        """Vectors [E, H] of rows of the table."""
        # Two parts, so that the table itself needs no gradient.
        known = self.table[(rows_E - 1).clamp_min(0)]
        return self.project(torch.where((rows_E > 0)[:, None], known, self.unknown))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / _TENSORS)
        (folder / _IDS).write_text(json.dumps(self.ids))

    @classmethod
    def load(cls, folder: Path) -> ItemVectors:
        state, ids = load_file(folder / _TENSORS), json.loads((folder / _IDS).read_text())
        made = cls(ids, state["table"], state["project.0.weight"].shape[0])
        made.load_state_dict(state)
        return made
