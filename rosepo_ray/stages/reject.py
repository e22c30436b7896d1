"""Rejected samples: Ray Data actors score each example once with the SFT policy, which gives the policy's own mistake
and the reference log-probabilities of chosen and rejected in the same pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rosepo_ray import storage, tables
from rosepo_ray.config import Settings
from rosepo_ray.errors import BadInput
from rosepo_ray.seeds import derive
from rosepo_ray.stages import cluster, progress, quiet


def run(settings: Settings, inputs: dict[str, str], out: str) -> dict[str, Any]:
    """Write `pairs` for the training examples (or a hashed subset of them) and a hashed subset of the validation ones.

    Examples and exclusions are read part by part (they are partitioned by user alike), so the driver holds only ids.
    """
    import ray

    wanted = _choose(settings, inputs["data"])
    parts = tables.parts(inputs["data"], "examples")
    taken = tables.parts(inputs["data"], "taken")
    chosen = ray.put(wanted)
    rows = [{"examples": e, "taken": t, "part": n} for n, (e, t) in enumerate(zip(parts, taken, strict=True))]

    counts = {"train": 0, "validation": 0}
    strategies: dict[str, int] = {}
    line = progress.Line("reject", wanted["rows"])
    with quiet.data_context(slow_tasks=True):
        batches = _stream(settings, inputs, rows, chosen).iter_batches(
            batch_size=1024, batch_format="pyarrow", prefetch_batches=0
        )
        for number, batch in enumerate(batches):
            tables.write_part(out, "pairs", number, batch)
            for entry in pc.value_counts(batch["split"]).to_pylist():
                counts[entry["values"]] += entry["counts"]
            for entry in pc.value_counts(pc.list_flatten(batch["strategy"].combine_chunks())).to_pylist():
                strategies[entry["values"]] = strategies.get(entry["values"], 0) + entry["counts"]
            line.update(sum(counts.values()))
    line.close()
    if not counts["train"] or not counts["validation"]:
        raise BadInput(
            f"there are {counts['train']} training and {counts['validation']} validation pairs; give more data"
        )
    return {"pairs": counts, "strategies": strategies}


def _stream(settings: Settings, inputs: dict[str, str], rows: list[dict[str, Any]], chosen: Any) -> Any:
    import ray

    def read(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from _read_part(row["examples"], row["taken"], ray.get(chosen))

    return (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .flat_map(read, num_cpus=cluster.READ_CPUS)
        .map_batches(
            Rejector,
            fn_constructor_args=(settings, inputs["data"], inputs["sft"]),
            batch_size=256,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=settings.cluster.actors),
            num_cpus=cluster.ACTOR_CPUS,
            num_gpus=int(settings.cluster.use_gpu),
        )
    )


def _choose(settings: Settings, data: str) -> dict[str, int]:
    """Per split the largest hash that is taken (the smallest hashes of (seed, example_id) are), and how many rows."""
    limits = {"train": settings.rejection.examples, "validation": settings.rejection.validation_examples}
    hashes: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    for uri in tables.parts(data, "examples"):
        part = tables.read_part(uri, "examples", ["example_id", "split"])
        for split in hashes:
            ids = part.filter(pc.equal(part["split"], split))["example_id"].to_pylist()
            hashes[split].append(_hashes(settings.seed, ids))
    edges, rows = {}, 0
    for split, limit in limits.items():
        found = np.concatenate(hashes[split])
        if not len(found):
            raise BadInput(f"the {split} split has no examples, so no pairs can be made; give a longer log")
        edges[split] = int(
            found.max() if limit is None or limit >= len(found) else np.partition(found, limit - 1)[limit - 1]
        )
        rows += len(found) if limit is None else min(limit, len(found))
    return edges | {"seed": settings.seed, "rows": rows}


def _hashes(seed: int, example_ids: list[str]) -> np.ndarray:
    return np.fromiter((derive(seed, "pairs", row) for row in example_ids), np.int64, len(example_ids))


def _read_part(examples: str, taken: str, edges: dict[str, int]) -> Iterator[dict[str, Any]]:
    table = tables.read_part(examples, "examples")
    hashes = _hashes(edges["seed"], table["example_id"].to_pylist())
    limits = np.array([edges.get(split, -1) for split in table["split"].to_pylist()])
    table = table.filter(pa.array(hashes <= limits))
    touched = {row["user_id"]: row for row in tables.read_part(taken, "taken").to_pylist()}
    for row in table.to_pylist():
        mine = touched[row["user_id"]]
        # Training negatives may not avoid the future (a leak); validation ones avoid the whole log.
        yield {**row, "excluded": mine["training"] if row["split"] == "train" else mine["whole"]}


class Rejector:
    """The actor: proposes from catalogue pools, scores once, completes from the policy's scores."""

    def __init__(self, settings: Settings, data: str, sft: str) -> None:
        import torch

        from rosepo_ray.policy import store
        from rosepo_ray.rejection import build
        from rosepo_ray.rejection.catalogue import Catalogue

        torch.set_num_threads(max(1, cluster.cores() // settings.cluster.actors))
        self.settings = settings
        items = tables.read(data, "items")
        self.title_of = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
        self.strategy = build(settings.rejection.strategy, Catalogue.from_table(items), settings.rejection.encoder)
        with storage.local_folder(storage.join(sft, "model")) as folder:
            self.policy = store.load(folder, "cuda" if settings.cluster.use_gpu else "cpu")

    def __call__(self, batch: pa.Table) -> pa.Table:
        from rosepo_ray.policy.prompts import Request
        from rosepo_ray.policy.scoring import score
        from rosepo_ray.rejection import RejectionRow

        rows = batch.to_pylist()
        k, seed = self.settings.rejection.k, self.settings.seed
        framed = [
            RejectionRow(
                r["example_id"], r["user_id"], r["history"], r["target"], r["candidates"], frozenset(r["excluded"])
            )
            for r in rows
        ]
        proposed = [self.strategy.propose(row, k, seed) for row in framed]
        pool = [list(row["candidates"]) if self.strategy.needs_scores else [row["target"]] for row in rows]
        for items, waiting in zip(pool, proposed, strict=True):
            items += [pick.item_id for pick in waiting if pick is not None and pick.item_id not in items]
        requests = [
            Request(self._titles(row["history"]), self._titles(items), self._titles(row["candidates"]))
            for row, items in zip(rows, pool, strict=True)
        ]
        logps = score(self.policy, requests, self.settings.evaluation.batch)
        out = []
        for row, frame, items, waiting, values in zip(rows, framed, pool, proposed, logps, strict=True):
            logp = dict(zip(items, values.tolist(), strict=True))
            picks = [pick for pick in waiting if pick is not None]  # those that needed no scores
            if len(picks) < len(waiting):
                picks = self.strategy.complete(frame, waiting, np.array([logp[c] for c in row["candidates"]]), seed)
            out.append(self._pair(row, picks, logp))
        return tables.from_rows("pairs", out)

    def _titles(self, items: list[str]) -> list[str]:
        return [self.title_of[item] for item in items]

    def _pair(self, row: dict[str, Any], picks: list[Any], logp: dict[str, float]) -> dict[str, Any]:
        rejected = [pick.item_id for pick in picks]
        return {
            **{name: row[name] for name in ("example_id", "user_id", "split", "history", "candidates")},
            "chosen": row["target"],
            "rejected": rejected,
            "rejected_text": self._titles(rejected),
            "strategy": [pick.strategy for pick in picks],
            "ref_chosen_logp": logp[row["target"]],
            "ref_rejected_logps": [logp[item] for item in rejected],
        }
