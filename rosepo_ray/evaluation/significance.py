"""Intervals: a bootstrap over users, paired between models.

Every metric with an interval is a function of sums over rows of per-row components, so a draw is one row of counts
[users] and all draws together are a matrix product with the per-user sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rosepo_ray import seeds
from rosepo_ray.errors import RosepoError

_BLOCK = 4_000_000
LEVEL = 0.95

Components = Mapping[str, np.ndarray]
"""name -> per-row values, [rows] or [rows, width]."""
Sums = dict[str, np.ndarray]
"""name -> sums per draw, [draws] or [draws, width]."""


def sums(components: Components, weights_DR: np.ndarray | None = None) -> Sums:
    """Weighted sums over the rows, one per line of weights [draws, rows]; without weights one draw of all rows."""
    out: Sums = {}
    flat, shapes = _flatten(components)
    totals = flat.sum(axis=0, keepdims=True) if weights_DR is None else weights_DR @ flat
    at = 0
    for name, width in shapes.items():
        out[name] = totals[:, at] if width is None else totals[:, at : at + width]
        at += width or 1
    return out


def bootstrap(models: Mapping[str, Components], units: Sequence[str], *, draws: int, seed: int) -> dict[str, Sums]:
    """Sums of every component in every draw; draw d uses the same resampled units for all models (paired).

    A unit (user) is drawn with all its rows (cluster bootstrap, Davison and Hinkley 1997, section 3.8).

    Args:
        models: name -> components, the rows of all models in the same order.
        units: the unit of each row [rows].
        draws: bootstrap draws.
        seed: with the sorted units it fixes the draws.

    Raises:
        RosepoError: a component does not have one value per row.
    """
    names, unit_R = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    per_unit: dict[str, Sums] = {}
    for model, components in models.items():
        wrong = [name for name, values in components.items() if len(values) != len(units)]
        if wrong:
            raise RosepoError(
                f"components {wrong} of model '{model}' do not have one value for each of {len(units)} rows"
            )
        per_unit[model] = {name: _group_sum(values, unit_R, len(names)) for name, values in components.items()}
    blocks: dict[str, list[Sums]] = {model: [] for model in models}
    for counts_DU in _draw_counts(len(names), draws, seed):
        for model, components in per_unit.items():
            blocks[model].append(sums(components, counts_DU))
    return {
        model: {name: np.concatenate([block[name] for block in found]) for name in found[0]}
        for model, found in blocks.items()
    }


def interval(values_D: np.ndarray) -> tuple[float, float]:
    """Percentile interval of the draws: the 2.5 % and 97.5 % quantiles."""
    low, high = np.quantile(values_D, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _flatten(components: Components) -> tuple[np.ndarray, dict[str, int | None]]:
    columns = [values if values.ndim == 2 else values[:, None] for values in components.values()]
    widths = {name: values.shape[1] if values.ndim == 2 else None for name, values in components.items()}
    return np.concatenate(columns, axis=1).astype(np.float64), widths


def _group_sum(values: np.ndarray, unit_R: np.ndarray, count: int) -> np.ndarray:
    out = np.zeros((count, *values.shape[1:]))
    np.add.at(out, unit_R, values)
    return out


def _draw_counts(units: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each unit is in each draw, in blocks [draws of the block, units] that bound the memory."""
    generator = seeds.generator(seed, "bootstrap")
    size = max(1, _BLOCK // units)
    for start in range(0, draws, size):
        block = min(size, draws - start)
        drawn = generator.integers(units, size=(block, units)) + units * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * units).reshape(block, units).astype(np.float64)
