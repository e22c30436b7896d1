"""Pairs per second of the hosted oracle through its client, against the direct call in one process.

    python benchmarks/oracle_service.py

The oracle is a SASRec of the quickstart's size over a catalogue of MovieLens's (1,682 items), with random weights: they
do not change the time. Both sides get the same rows, 128 a call, with --k rejected items each, the direct one on one
thread as the replica has. Through the handle the client keeps several calls in flight, as it does in a run; the same
with one call at a time stands beside it. Rounds alternate; the answers of both sides are compared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Figure, Promise, figure, write

ITEMS, HISTORY, HIDDEN = 1_682, 10, 96
BATCH = 128
APP = "rosepo-benchmark-oracle"


def build(folder: Path, seed: int = 1) -> None:
    """An oracle below `folder` in which every item is known."""
    from rosepo_ray.oracle import store
    from rosepo_ray.oracle.sasrec import Sasrec, SasrecScorer
    from rosepo_ray.oracle.sasrec_net import SasRec

    usual = Sasrec(hidden=HIDDEN)
    model = SasRec(usual.shape(ITEMS, HISTORY), seed)
    scorer = SasrecScorer.build([model], [f"i{n}" for n in range(ITEMS)], [np.ones(ITEMS)], seed)
    store.save(scorer, folder)


def rows(count: int, k: int, seed: int = 2) -> Any:
    """A question about `count` users with full histories."""
    from rosepo_ray.oracle.judging import as_request

    rng = np.random.default_rng(seed)
    items = rng.integers(0, ITEMS, (count, HISTORY + 1 + k))
    named = [[f"i{item}" for item in row] for row in items.tolist()]
    return as_request(
        [f"u{n}" for n in range(count)],
        [row[:HISTORY] for row in named],
        [row[HISTORY] for row in named],
        [row[HISTORY + 1 :] for row in named],
    )


def timed(side: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
    began = time.perf_counter()
    answer = side()
    return time.perf_counter() - began, answer


def compare(given: argparse.Namespace, folder: Path) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Figures and details. Starts a local Ray cluster and ends it."""
    from rosepo_ray.on_ray import cluster
    from rosepo_ray.on_ray.oracle_client import OracleClient
    from rosepo_ray.oracle import judging, store
    from rosepo_ray.run.settings import Settings

    torch.set_num_threads(1)
    build(folder)
    oracle = store.load(folder)
    question = rows(BATCH * given.calls, given.k)
    pairs = BATCH * given.calls * given.k
    cluster.start(Settings().cluster, served=True)
    from rosepo_ray.on_ray import oracle_service

    try:
        oracle_service.start(str(folder), APP)
        several, single = OracleClient(APP, batch=BATCH), OracleClient(APP, batch=BATCH, in_flight=1)

        def direct() -> list[Any]:
            pieces = judging.batches(question, BATCH)
            return [np.array(row) for piece in pieces for row in judging.judge(oracle, piece)["disagreement"]]

        def handle(client: OracleClient) -> list[Any]:
            answer = client.judge(question["user_id"], question["history"], question["chosen"], question["rejected"])
            return answer.disagreement

        sides = {"direct": direct, "handle": lambda: handle(several), "handle_single": lambda: handle(single)}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(given.warmup + given.rounds):
            order = list(sides) if number % 2 else list(sides)[::-1]
            answers = {}
            for name in order:
                spent, answers[name] = timed(sides[name])
                if number >= given.warmup:
                    seconds[name].append(spent)
            for name in sides:
                if not np.allclose(answers[name], answers["direct"], atol=1e-6):
                    raise SystemExit(f"error: side {name} answers otherwise than the direct call")
        oracle_service.stop(APP)
    finally:
        cluster.stop()
    rates = {name: [pairs / spent for spent in found] for name, found in seconds.items()}

    def ratio(name: str) -> list[float]:
        return [a / b for a, b in zip(rates[name], rates["direct"], strict=True)]

    figures = {
        "oracle_handle_vs_direct": figure(ratio("handle"), Promise(0.85, 0.95)),
        "oracle_handle_single_vs_direct": figure(ratio("handle_single")),
        **{f"oracle_{name}_pairs": figure(rate, unit="pairs/s") for name, rate in rates.items()},
    }
    workload = {"items": ITEMS, "hidden": HIDDEN, "history": HISTORY, "rows_a_call": BATCH}
    return figures, {"workload": workload | vars(given), "pairs_a_round": pairs, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, default=3, help="rejected items a row")
    parser.add_argument("--calls", type=int, default=64, help="calls a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rosepo-oracle-") as folder:
        figures, details = compare(given, Path(folder))
    write("oracle_service", figures, details)


if __name__ == "__main__":
    main()
