"""A fit that looks at validation rows while it trains: which step was best, and whether to go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from rosepo_ray.config.training import ValidationSettings

Judge = Callable[[], Mapping[str, float]]
"""Figures of the model as it is, over the validation rows of all ranks; all ranks call it and get the same."""

PREFIX = "val_"
"""Of the figures' names among those of a step."""
_LOWER_IS_BETTER = ("loss",)


class Watch(nn.Module):
    """What was seen so far, as buffers: a resumed run goes on from it.

    Better is a higher `settings.metric` (a lower loss), among the looks whose share of texts that are items is at least
    `settings.texts` of what it was at the first look.
    """

    best: Tensor
    best_step: Tensor
    since: Tensor
    first_texts: Tensor

    def __init__(self, settings: ValidationSettings, judge: Judge, *, from_start: bool = False) -> None:
        """`from_start` looks before the first step too."""
        super().__init__()
        self.settings, self.judge, self.from_start = settings, judge, from_start
        for name, value in (("best", -math.inf), ("best_step", -1.0), ("since", 0.0), ("first_texts", math.nan)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    def due(self, step: int, total: int) -> bool:
        if self.settings.every is None:
            return False
        return self.from_start if step == 0 else step % self.settings.every == 0 or step == total

    def look(self, step: int) -> tuple[dict[str, float], bool]:
        """The figures under their names among a step's, and whether they are the best so far."""
        figures = self.judge()
        texts = figures.get("texts")
        if texts is not None and math.isnan(self.first_texts.item()):
            self.first_texts.fill_(texts)
        value = figures[self.settings.metric]
        value = -value if self.settings.metric in _LOWER_IS_BETTER else value
        kept = texts is None or texts >= self.settings.texts * self.first_texts.item()
        better = kept and value > self.best.item()
        self.since.fill_(0 if better else self.since + 1)
        if better:
            self.best.fill_(value)
            self.best_step.fill_(step)
        return {PREFIX + name: float(figure) for name, figure in figures.items()}, better

    @property
    def best_at(self) -> int:
        """The step of the best look; -1 where there was none."""
        return int(self.best_step.item())

    def extra_repr(self) -> str:
        return f"best {self.settings.metric} {abs(self.best.item()):.4g} after step {self.best_at}"

    @property
    def done(self) -> bool:
        """Whether nothing was better for as many looks as `settings.patience` says."""
        return self.settings.patience is not None and self.since.item() >= self.settings.patience
