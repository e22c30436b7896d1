"""Scoring 20 candidates of one user: one shared-prefix pass against naive forwards and an expanded KV cache.

    python benchmarks/scoring.py

All sides give the summed log-probabilities of the same 20 titles after the same prompt (checked to 1e-4), without
gradients, on one thread, from token ids:

- `packed`: this repository, what rosepo_ray.policy.scoring runs for a batch of one user;
- `naive`: the model's forward pass over prompt + title with all logits, as it is often written; one title after the
  other or all in one padded batch, whichever is faster here;
- `kv`: the prompt once with use_cache, the cache repeated 20 times, one pass over the padded titles, the head at the
  prompt's last position and on the titles only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import torch
import workload
from harness import Figure, Promise, measure, ratio
from sides import packed_logps
from torch import Tensor
from workload import PAD, Examples, Workload, adapted_model, examples, shake

from rosepo_ray.policy.model import causal_lm

PROMISES = {"score20_vs_naive": Promise(16.0, 25.0), "score20_vs_kv": Promise(1.8, 2.5)}
CANDIDATES = 20
TOLERANCE = 1e-4


def padded(rows: list[list[int]]) -> Tensor:
    length = max(map(len, rows))
    return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])


def naive_batch(model: Any, user: Examples) -> Tensor:
    """All titles in one batch, padded on the right; the logits of every position."""
    prompt, answers = user.prompts[0], user.responses[0]
    logits = model(input_ids=padded([prompt + answer for answer in answers])).logits
    logps = logits.log_softmax(-1)
    first = len(prompt) - 1
    return torch.stack(
        [
            logps[row, torch.arange(first, first + len(answer)), torch.tensor(answer)].sum()
            for row, answer in enumerate(answers)
        ]
    )


def naive_loop(model: Any, user: Examples) -> Tensor:
    """One title after the other."""
    prompt, answers = user.prompts[0], user.responses[0]
    return torch.cat([naive_batch(model, Examples([prompt], [[answer]])) for answer in answers])


def expanded_cache(model: Any, user: Examples) -> Tensor:
    """The prompt's keys and values once, repeated for each title; a title's last token is not fed."""
    prompt, answers = user.prompts[0], user.responses[0]
    start = model(input_ids=torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
    first = start.logits[0, -1].log_softmax(-1)[torch.tensor([answer[0] for answer in answers])]
    if max(map(len, answers)) == 1:
        return first
    cache = start.past_key_values
    cache.batch_repeat_interleave(len(answers))
    fed = padded([answer[:-1] for answer in answers])
    targets = padded([answer[1:] for answer in answers])
    # Padding stands on the right of the titles, so causal attention over cache and titles needs no mask of its own.
    inner = causal_lm(model)
    decoder = getattr(inner, inner.base_model_prefix)
    hidden = decoder(input_ids=fed, past_key_values=cache, use_cache=True).last_hidden_state
    rows, columns = (torch.arange(fed.shape[1]) < torch.tensor([len(a) - 1 for a in answers])[:, None]).nonzero().T
    logits = inner.get_output_embeddings()(hidden[rows, columns])
    logps = logits.gather(1, targets[rows, columns, None])[:, 0] - logits.logsumexp(-1)
    return first.index_add(0, rows, logps)


SIDES: dict[str, Callable[[Any, Examples], Tensor]] = {
    "packed": packed_logps,
    "naive_batch": naive_batch,
    "naive_loop": naive_loop,
    "kv": expanded_cache,
}


def compare(shape: Workload, rounds: int, suffix: str, promised: bool) -> tuple[dict[str, Figure], dict[str, Any]]:
    model = adapted_model(shape).eval()
    shake(model)
    # Whoever only scores merges the adapter once before, as rosepo_ray.policy.store.load does.
    merged = model.merge_and_unload().eval() if shape.lora else model
    user = examples(shape, 1, CANDIDATES)
    with torch.inference_mode():
        scores = {name: side(merged, user) for name, side in SIDES.items()}
        worst = {name: float((found - scores["packed"]).abs().max()) for name, found in scores.items()}
        if max(worst.values()) > TOLERANCE:
            raise SystemExit(f"the sides do not agree, so their times cannot be compared: {worst}")
        spent = {}
        for name in ("naive_batch", "naive_loop"):
            began = time.process_time()
            SIDES[name](merged, user)
            spent[name] = time.process_time() - began
        naive = min(spent, key=lambda name: spent[name])

        def side(name: str) -> Callable[[], None]:
            return lambda: _run(SIDES[name], merged, user)

        times = measure({name: side(name) for name in ("packed", naive, "kv")}, rounds, warmup=2)
    figures = {
        f"{name}{suffix}": ratio(times[slow], times["packed"], PROMISES[name] if promised else None)
        for name, slow in (("score20_vs_naive", naive), ("score20_vs_kv", "kv"))
    }
    return figures, {"naive": naive, "differences": worst, "seconds": harness.seconds(times)}


def _run(side: Callable[[Any, Examples], Tensor], model: Any, user: Examples) -> None:
    side(model, user)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="also 125 M parameters and quickstart's lengths")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", choices=["ISSUE", "TINY"], default="ISSUE", help="TINY: does the script run?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the results")
    given = parser.parse_args()
    harness.pin_threads()
    models = {"": getattr(workload, given.model)}
    if given.full:
        models |= {"_125m": workload.LARGE, "_quickstart": workload.QUICKSTART}
    figures: dict[str, Figure] = {}
    details: dict[str, Any] = {}
    for suffix, shape in models.items():
        more, details[f"score20{suffix}"] = compare(shape, given.rounds, suffix, promised=not suffix)
        figures |= more
    harness.write("scoring", figures, details, given.out)


if __name__ == "__main__":
    main()
