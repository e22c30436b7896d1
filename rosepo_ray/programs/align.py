"""Alignment: preference optimisation over pairs that carry the reference's log-probabilities and their smoothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rosepo_ray.catalogue.requests import Requests
from rosepo_ray.config.align import AlignSettings
from rosepo_ray.errors import Refused
from rosepo_ray.losses import Objective
from rosepo_ray.policy import batches, store
from rosepo_ray.policy.engine.layout import pack
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.segments import EncodedRow
from rosepo_ray.programs.pair_batch import Derivative, PairBatch, derivatives, pair_batch
from rosepo_ray.training.buckets import buckets
from rosepo_ray.training.order import steps
from rosepo_ray.training.program import MicroBatch
from rosepo_ray.training.watch import Watch
from rosepo_ray.training.world import World

Rows = Callable[[Sequence[str]], Iterator[dict[str, Any]]]
"""The rows of the table `pairs` with these example_ids, in that order (an id may come several times), with `epsilon`
[K] where the objective needs it: a stream of Ray Data, or a dictionary in one process."""

_REFERENCE_TOLERANCE = {"cpu": 1e-3, "cuda": 1e-2}
"""Nats per response, in fp32 on either side. The pairs may have been scored on other hardware, whose kernels sum in
another order."""


class AlignProgram:
    """Preference optimisation without a reference model."""

    def __init__(
        self,
        policy: Policy,
        requests: Requests,
        units: Sequence[Sequence[str]],
        rows: Rows,
        align: AlignSettings,
        seed: int,
        world: World,
        watch: Watch | None = None,
    ) -> None:
        """`policy` is the SFT policy, trainable; `units` names every training pair, in the table's order: each alone,
        or those of a window together (`align.dense`)."""
        self.policy, self.requests, self.units, self.rows = policy, requests, units, rows
        self.watch = watch
        self.names = [unit[0] for unit in units]
        self.align, self.seed, self.world = align, seed, world
        self.module = PackedPolicy(policy.model, policy.items)
        self.objective: Objective = align.objective.build().to(world.device)
        self.state = self.objective
        self._ahead: deque[Derivative] = deque()

    def batches(self, start: int) -> Iterator[list[MicroBatch]]:
        plan = list(
            steps(
                lambda epoch: self.names,
                seed=self.seed,
                batch=self.align.batch,
                rank=self.world.rank,
                world=self.world.size,
                start=start,
                epochs=self.align.epochs,
            )
        )
        rows = self.rows([name for part in plan for _, index in part.rows for name in self.units[index]])
        for part in plan:
            units = [[next(rows) for _ in self.units[index]] for _, index in part.rows]
            yield self._micros(units, part.real, part.step == 0)

    def _micros(self, units: list[list[dict[str, Any]]], real: bool, fresh: bool) -> list[MicroBatch]:
        encoded: list[tuple[EncodedRow, list[dict[str, Any]]]] = []
        for unit in units:
            nested = batches.encode_nested(
                self.policy, [self.requests.of_row(row, self._responses(row)) for row in unit]
            )
            encoded += [(row, [unit[n] for n in numbers]) for row, numbers in nested]
        groups = buckets([row.shape for row, _ in encoded], self.align.micro_batch, self.world.device.type)
        micros: list[MicroBatch] = []
        for group in groups:
            packed = pack([encoded[i][0] for i in group], self.policy.pad_id)
            rows = [row for i in group for row in encoded[i][1]]
            micros.append(pair_batch(rows, packed, self.objective.needs, real, fresh))
        return micros

    def _responses(self, row: dict[str, Any]) -> list[str]:
        return [*self.requests.titles([row["chosen"]]), *row["rejected_text"]]

    def look_ahead(self, micros: Sequence[PairBatch], run: Callable[[Any], Tensor]) -> None:
        """An objective that is not separable gets its exact gradient in two passes: log-probabilities of the global
        batch without gradient here (`run` gives a micro-batch's), then each micro-batch goes backward with the
        derivative of the loss by its log-probabilities."""
        if not self.objective.separable:
            with torch.no_grad():
                own = [micro.pairs(run(micro.inputs)) for micro in micros]
            self._ahead = deque(derivatives(self.objective, own, [bool(micro.count) for micro in micros], self.world))

    def loss(self, outputs: Tensor, micro: PairBatch) -> tuple[Tensor, dict[str, float]]:
        pairs = micro.pairs(outputs)
        if micro.fresh and pairs.ref_logps_BR is not None:
            self._compare_with_reference(pairs.logps_BR, pairs.ref_logps_BR, micro)
        if self.objective.separable:
            loss_B = self.objective(pairs)
        else:
            loss_B = self._ahead.popleft().by(pairs.logps_BR)
        chosen_B = pairs.logps_BR[:, 0]
        if self.align.sft_weight:
            loss_B = loss_B - self.align.sft_weight * chosen_B / pairs.lengths_BR[:, 0]
        per_row = {"chosen_logp": chosen_B, "rejected_logp": pairs.rejected_mean_B(pairs.logps_BR[:, 1:])}
        if pairs.ref_logps_BR is not None:
            margins_BK = pairs.margins_BK()
            per_row["margin"] = pairs.rejected_mean_B(margins_BK)
            per_row["pair_accuracy"] = pairs.rejected_mean_B((margins_BK > 0).float())
        if pairs.epsilon_BR is not None:
            per_row["epsilon"] = pairs.rejected_mean_B(pairs.epsilon_BR[:, 1:])
        return loss_B.sum(), {name: float(values.detach().sum()) for name, values in per_row.items()}

    def after_step(self, metrics: Mapping[str, float]) -> None:
        self.objective.observe(metrics)

    def _compare_with_reference(self, logps_BR: Tensor, reference_BR: Tensor, micro: PairBatch) -> None:
        if not self.world.exact:  # the reference is fp32: bf16 would hide another model, or refuse the right one
            with torch.no_grad():
                logps_BR = micro.pairs(self.module(micro.inputs.to(self.world.device))).logps_BR
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
