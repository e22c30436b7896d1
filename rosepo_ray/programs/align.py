"""Alignment: preference optimisation over pairs that carry the reference's log-probabilities and their smoothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rosepo_ray.config.align import AlignSettings
from rosepo_ray.errors import Refused
from rosepo_ray.losses import OBJECTIVES, margins
from rosepo_ray.policy import batches, store
from rosepo_ray.policy.engine.layout import PackedBatch
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.prompts import Request
from rosepo_ray.training.buckets import buckets
from rosepo_ray.training.loop import MicroBatch
from rosepo_ray.training.order import steps
from rosepo_ray.training.world import World

Pairs = Callable[[Sequence[str]], Iterator[dict[str, Any]]]
"""The rows of the table `pairs` with these example_ids, in that order (an id may come several times), each with
`epsilon` [K]: a stream of Ray Data, or a dictionary in one process."""

_REFERENCE_TOLERANCE = {"cpu": 1e-3, "cuda": 1e-2}
"""Nats per response, in fp32 on either side. The pairs may have been scored on other hardware, whose kernels sum in
another order."""


@dataclass(frozen=True, kw_only=True)
class PairBatch(MicroBatch):
    """A micro-batch of B pairs with K rejected items each; responses lie row by row, chosen first."""

    ref_chosen_B: Tensor
    ref_rejected_BK: Tensor
    epsilon_BK: Tensor
    chosen_tokens_B: Tensor
    fresh: bool
    """True before the first optimiser step, when policy and reference must agree."""


class AlignProgram:
    """Preference optimisation without a reference model."""

    def __init__(
        self,
        policy: Policy,
        title_of: Mapping[str, str],
        example_ids: Sequence[str],
        pairs: Pairs,
        align: AlignSettings,
        seed: int,
        world: World,
    ) -> None:
        """`policy` is the SFT policy, trainable; `example_ids` names every training pair, in the table's order."""
        self.policy, self.title_of, self.ids, self.pairs = policy, title_of, example_ids, pairs
        self.align, self.seed, self.world = align, seed, world
        self.module = PackedPolicy(policy.model)

    def batches(self, start: int) -> Iterator[list[MicroBatch]]:
        plan = list(
            steps(
                lambda epoch: self.ids,
                seed=self.seed,
                batch=self.align.batch,
                rank=self.world.rank,
                world=self.world.size,
                start=start,
                epochs=self.align.epochs,
            )
        )
        rows = self.pairs([self.ids[index] for part in plan for _, index in part.rows])
        for part in plan:
            yield self._micros([next(rows) for _ in part.rows], part.real, part.step == 0)

    def _micros(self, rows: list[dict[str, Any]], real: bool, fresh: bool) -> list[MicroBatch]:
        encoded = [batches.encode(self.policy, self._request(row)) for row in rows]
        groups = buckets([row.shape for row in encoded], self.align.micro_batch, self.world.device.type)
        return [
            self._micro([rows[i] for i in group], batches.packed(self.policy, [encoded[i] for i in group]), real, fresh)
            for group in groups
        ]

    def _request(self, row: dict[str, Any]) -> Request:
        return Request(
            [self.title_of[item] for item in row["history"]],
            [self.title_of[row["chosen"]], *row["rejected_text"]],
            [self.title_of[item] for item in row["candidates"]],
        )

    def _micro(self, rows: list[dict[str, Any]], packed: PackedBatch, real: bool, fresh: bool) -> PairBatch:
        return PairBatch(
            packed,
            len(rows) if real else 0,
            [row["example_id"] for row in rows],
            packed.tokens,
            ref_chosen_B=torch.tensor([row["ref_chosen_logp"] for row in rows]),
            ref_rejected_BK=torch.tensor([row["ref_rejected_logps"] for row in rows]),
            epsilon_BK=torch.tensor([row["epsilon"] for row in rows]),
            chosen_tokens_B=batches.response_tokens(packed).view(len(rows), -1)[:, 0],
            fresh=fresh,
        )

    def loss(self, outputs: Tensor, micro: PairBatch) -> tuple[Tensor, dict[str, float]]:
        align = self.align
        logps_BR = outputs.view(len(micro.row_ids), -1)
        chosen_B, rejected_BK = logps_BR[:, 0], logps_BR[:, 1:]
        to = outputs.device
        ref_chosen_B, ref_rejected_BK = micro.ref_chosen_B.to(to), micro.ref_rejected_BK.to(to)
        epsilon_BK = micro.epsilon_BK.to(to)
        if micro.fresh:
            self._compare_with_reference(logps_BR, torch.cat([ref_chosen_B[:, None], ref_rejected_BK], 1), micro)
        margins_BK = margins(chosen_B, rejected_BK, ref_chosen_B, ref_rejected_BK)
        loss_B = OBJECTIVES[align.objective.type](margins_BK, epsilon_BK, align.beta).mean(1)
        if align.sft_weight:
            loss_B = loss_B - align.sft_weight * chosen_B / micro.chosen_tokens_B.to(to)
        per_row = {
            "margin": margins_BK.mean(1),
            "pair_accuracy": (margins_BK > 0).float().mean(1),
            "chosen_logp": chosen_B,
            "rejected_logp": rejected_BK.mean(1),
            "epsilon": epsilon_BK.mean(1),
        }
        return loss_B.sum(), {name: float(values.detach().sum()) for name, values in per_row.items()}

    def _compare_with_reference(self, logps_BR: Tensor, reference_BR: Tensor, micro: PairBatch) -> None:
        if not self.world.exact:  # the reference is fp32: bf16 would hide another model, or refuse the right one
            with torch.no_grad():
                logps_BR = self.module(micro.inputs.to(self.world.device)).view_as(logps_BR)
        difference_BR = (logps_BR.detach() - reference_BR).abs()
        if (difference_BR > _REFERENCE_TOLERANCE[self.world.device.type]).any():
            worst = int(difference_BR.amax(1).argmax())
            raise Refused(
                f"before the first step the policy gives {micro.row_ids[worst]} log-probabilities that differ from the "
                f"stored reference by up to {float(difference_BR[worst].max()):.4g}: the pairs were made by another "
                "SFT model or prompt; make them again"
            )

    def save(self, folder: Path) -> None:
        store.save(self.policy, folder)
