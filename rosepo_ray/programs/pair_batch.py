"""Pairs in a micro-batch, and the derivative of an objective that must see the global batch."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from rosepo_ray.losses.objective import Need, Objective, Pairs
from rosepo_ray.policy import batches
from rosepo_ray.policy.engine.layout import PackedBatch
from rosepo_ray.training.program import MicroBatch
from rosepo_ray.training.world import World


@dataclass(frozen=True, kw_only=True)
class PairBatch(MicroBatch):
    """A micro-batch of B rows of R = 1 + K responses, chosen first; shorter rows are filled up."""

    places_BR: Tensor
    """Which of the packed responses stands where; 0 where none does."""
    valid_BR: Tensor
    lengths_BR: Tensor
    ref_logps_BR: Tensor | None
    epsilon_BR: Tensor | None
    oracle_scores_BR: Tensor | None
    fresh: bool
    """True before the first optimiser step, when policy and reference must agree."""

    def pairs(self, logps: Tensor) -> Pairs:
        """With the log-probabilities [sum of R] of the packed responses."""
        to = logps.device
        valid_BR = self.valid_BR.to(to)
        known = {
            "ref_logps_BR": self.ref_logps_BR,
            "epsilon_BR": self.epsilon_BR,
            "oracle_scores_BR": self.oracle_scores_BR,
        }
        return Pairs(
            torch.where(valid_BR, logps[self.places_BR.to(to)], 0.0),
            self.lengths_BR.to(to),
            valid_BR,
            self.row_ids,
            **{name: None if value is None else value.to(to) for name, value in known.items()},
        )


def pair_batch(
    rows: Sequence[dict[str, Any]], packed: PackedBatch, needs: AbstractSet[Need], real: bool, fresh: bool
) -> PairBatch:
    """The rows of a stream and their packed responses; of the columns only what the objective needs."""
    counts = torch.tensor([1 + len(row["rejected_text"]) for row in rows])
    valid_BR = torch.arange(int(counts.max())) < counts[:, None]
    places_BR = torch.zeros(valid_BR.shape, dtype=torch.long)
    places_BR[valid_BR] = torch.arange(int(counts.sum()))

    def filled(values: list[list[float]]) -> Tensor:
        tensor_BR = torch.zeros(valid_BR.shape)
        tensor_BR[valid_BR] = torch.tensor([value for row in values for value in row])
        return tensor_BR

    reference = [[row["ref_chosen_logp"], *row["ref_rejected_logps"]] for row in rows] if "reference" in needs else None
    epsilon = [[0.0, *row["epsilon"]] for row in rows] if "epsilon" in needs else None
    scores = [row["oracle_scores"] for row in rows] if "oracle_scores" in needs else None
    return PairBatch(
        packed,
        len(rows) if real else 0,
        [row["example_id"] for row in rows],
        packed.tokens,
        places_BR=places_BR,
        valid_BR=valid_BR,
        lengths_BR=torch.where(valid_BR, batches.response_tokens(packed)[places_BR], 0),
        ref_logps_BR=None if reference is None else filled(reference),
        epsilon_BR=None if epsilon is None else filled(epsilon),
        oracle_scores_BR=None if scores is None else filled(scores),
        fresh=fresh,
    )


@dataclass(frozen=True)
class Derivative:
    """What a micro-batch needs of the global loss: its rows' losses, and their sum's derivative by each
    log-probability."""

    losses_B: Tensor
    by_logp_BR: Tensor

    def by(self, logps_BR: Tensor) -> Tensor:
        """The losses, with that derivative as the gradient of their sum."""
        moved_BR = (logps_BR - logps_BR.detach()) * self.by_logp_BR.to(logps_BR)
        return self.losses_B.to(logps_BR) + moved_BR.sum(1)


def derivatives(objective: Objective, own: Sequence[Pairs], real: Sequence[bool], world: World) -> list[Derivative]:
    """Of each micro-batch of this rank, from the rows of all ranks. Rows that only keep a rank in step do not count."""
    mine = [moved(pairs, torch.device("cpu")) if counts else None for pairs, counts in zip(own, real, strict=True)]
    ranks: list[list[Pairs | None]] = world.gather(mine)
    parts = [pairs for rank in ranks for pairs in rank if pairs is not None]
    whole = moved(joined(parts), world.device)
    logps_BR = whole.logps_BR.clone().requires_grad_()
    losses_B = objective(replace(whole, logps_BR=logps_BR))
    (by_logp_BR,) = torch.autograd.grad(losses_B.sum(), logps_BR)
    start = sum(len(pairs.row_ids) for rank in ranks[: world.rank] for pairs in rank if pairs is not None)
    found = []
    for pairs, counts in zip(own, real, strict=True):
        rows, width = pairs.logps_BR.shape
        if counts:
            found.append(Derivative(losses_B[start : start + rows].detach(), by_logp_BR[start : start + rows, :width]))
            start += rows
        else:
            found.append(Derivative(torch.zeros(rows), torch.zeros(rows, width)))
    return found


def moved(pairs: Pairs, device: torch.device) -> Pairs:
    tensors: dict[str, Any] = {name: v.to(device) for name, v in vars(pairs).items() if isinstance(v, Tensor)}
    return replace(pairs, **tensors)


def joined(parts: Sequence[Pairs]) -> Pairs:
    """The rows of all parts, one after the other, filled up to the widest."""
    width = max(part.logps_BR.shape[1] for part in parts)

    def together(name: str) -> Any:
        tensors = [getattr(part, name) for part in parts]
        if tensors[0] is None:
            return None
        return torch.cat([torch.nn.functional.pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors])

    names = [field.name for field in fields(Pairs) if field.name != "row_ids"]
    return Pairs(row_ids=[row for part in parts for row in part.row_ids], **{name: together(name) for name in names})
