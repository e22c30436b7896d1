"""Alignment: the RosePO loss over streamed pairs, each with a personal smoothing factor asked of the hosted oracle
while training runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import torch
from torch import Tensor

from rosepo_ray import storage
from rosepo_ray.config.settings import Settings
from rosepo_ray.errors import Refused, RosepoError
from rosepo_ray.losses import OBJECTIVES, margins
from rosepo_ray.on_ray import pair_stream, trainer
from rosepo_ray.oracle import answers
from rosepo_ray.storage import done, tables
from rosepo_ray.training.loop import MicroBatch

if TYPE_CHECKING:
    from rosepo_ray.policy.engine.layout import PackedBatch
    from rosepo_ray.policy.prompts import Request

_REFERENCE_TOLERANCE = {"cpu": 1e-3, "cuda": 1e-2}
"""Nats per response, in fp32 on either side. The pairs may have been scored on other hardware, whose kernels sum in
another order."""


def run(settings: Settings, inputs: dict[str, str], out: str) -> dict[str, Any]:
    """Continue the SFT weights (or adapter) on the training pairs; leaves `model/`, `metrics.jsonl`, `smoothing`."""
    pairs = _training_ids(inputs["reject"])
    steps = -(-len(pairs) * settings.align.epochs // settings.align.batch)
    asks = settings.oracle.type != "constant" and settings.align.replay is None
    app = f"rosepo-oracle-{done.fingerprint(out)}" if asks else None
    arguments = {"settings": settings, "pairs": inputs["reject"], "data": inputs["data"], "sft": inputs["sft"]}
    arguments |= {"out": out, "app": app}
    if app is None:
        trainer.run("align", settings, settings.align, steps, __name__, arguments, out)
    else:
        from rosepo_ray.on_ray import oracle_service

        oracle = storage.join(inputs["calibrate"], "oracle")
        replicas = settings.cluster.oracle_replicas_min, settings.cluster.oracle_replicas_max
        try:
            oracle_service.begin(oracle, app, *replicas)  # it loads beside the training workers, which await it
            trainer.run("align", settings, settings.align, steps, __name__, arguments, out)
        finally:
            oracle_service.stop(app)
    smoothing = answers.gather(out, pairs)
    return {
        "steps": steps,
        "pairs": len(pairs),
        "mean_epsilon": float(pc.mean(pc.list_flatten(smoothing["epsilon"])).as_py()),
        "oracle_versions": sorted(pc.unique(smoothing["oracle_version"]).to_pylist()),
        "final": trainer.read_metrics(out)[-1],
    }


def _training_ids(pairs: str) -> list[str]:
    return list(tables.read(pairs, "pairs", ["example_id", "split"], split="train")["example_id"].to_pylist())


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
    """Preference optimisation without a reference model: the pairs carry the reference's log-probabilities."""

    def __init__(self, settings: Settings, pairs: str, data: str, sft: str, out: str, app: str | None, world: Any):
        from rosepo_ray.policy import store
        from rosepo_ray.policy.engine.module import PackedPolicy

        self.settings, self.pairs, self.out, self.app, self.world = settings, pairs, out, app, world
        items = tables.read(data, "items", ["item_id", "title"])
        self.title_of = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
        with storage.local_copy(storage.join(sft, "model")) as folder:
            self.policy = store.load(folder, trainable=True)
        self.module = PackedPolicy(self.policy.model)
        self.ids = _training_ids(pairs)
        if app is not None:
            from rosepo_ray.on_ray import oracle_service

            oracle_service.await_running(app)

    def batches(self, start: int) -> Iterator[list[MicroBatch]]:
        from rosepo_ray.training.order import steps

        align = self.settings.align
        plan = list(
            steps(
                lambda epoch: self.ids,
                seed=self.settings.seed,
                batch=align.batch,
                rank=self.world.rank,
                world=self.world.size,
                start=start,
                epochs=align.epochs,
            )
        )
        stream: Iterator[dict[str, Any]] = iter(())
        under_way = -1
        for part in plan:
            rows = [next(stream) for epoch, _ in part.rows if epoch == under_way]
            for epoch in self._epochs_beginning(part.step, start):
                # The pass before ends here: two streams at once may not fit the cluster, and would wait for ever.
                if next(stream, None) is not None:
                    raise RosepoError("a pass over the pairs has rows beyond its plan; this is a bug, report it")
                if self.world.size > 1:
                    # Each rank has stored the answers of the pass before: none is asked for again.
                    torch.distributed.barrier()
                mine = [self.ids[index] for p in plan for e, index in p.rows if e == epoch]
                stream, under_way = pair_stream.rows(self.settings, self.pairs, mine, self.out, self.app), epoch
                rows += [next(stream) for e, _ in part.rows if e == epoch]
            yield self._micros(rows, part.real, part.step == 0)

    def _epochs_beginning(self, step: int, start: int) -> list[int]:
        """Epochs whose first row lies in this global step (or before it, at the start): all ranks agree on them."""
        batch, rows = self.settings.align.batch, len(self.ids)
        first, end = step * batch, min((step + 1) * batch, rows * self.settings.align.epochs)
        begun = {row // rows for row in range(first, end)}
        return sorted(e for e in begun if step == start or e * rows >= first)

    def _micros(self, rows: list[dict[str, Any]], real: bool, fresh: bool) -> list[MicroBatch]:
        from rosepo_ray.policy import batches
        from rosepo_ray.training.buckets import buckets

        encoded = [batches.encode(self.policy, self._request(row)) for row in rows]
        groups = buckets([row.shape for row in encoded], self.settings.align.micro_batch, self.world.device.type)
        return [
            self._micro([rows[i] for i in group], batches.packed(self.policy, [encoded[i] for i in group]), real, fresh)
            for group in groups
        ]

    def _request(self, row: dict[str, Any]) -> Request:
        from rosepo_ray.policy.prompts import Request

        return Request(
            [self.title_of[item] for item in row["history"]],
            [self.title_of[row["chosen"]], *row["rejected_text"]],
            [self.title_of[item] for item in row["candidates"]],
        )

    def _micro(self, rows: list[dict[str, Any]], packed: PackedBatch, real: bool, fresh: bool) -> PairBatch:
        from rosepo_ray.policy import batches

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

    def loss(self, outputs: Any, micro: Any) -> tuple[Tensor, dict[str, float]]:
        align = self.settings.align
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
        from rosepo_ray.policy import store

        store.save(self.policy, folder)


def program(arguments: dict[str, Any], world: Any) -> AlignProgram:
    return AlignProgram(**arguments, world=world)
