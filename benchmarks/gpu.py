"""What a GPU makes of the kernels; `benchmarks/gpu.sh` runs it. Neither ray nor mlflow nor pyarrow is imported.

- equality: summed log-probabilities of packed rows and of whole windows against separate rows, in fp32 and bf16;
- for models with the shapes of 135 M, 1 B and 8 B parameters (random weights, LoRA, bf16, activations recomputed where
  the model is large): seconds and peak memory of a preference step with K = 1 and 3 in packed rows, in whole windows
  (`align.dense`), in separate rows, and in TRL's form (chosen and rejected padded together, logits of every position);
  tokens a second, and the share of the card's bf16 peak that a step's own arithmetic takes;
- the exact ten best of 50,000 titles.

What does not fit is written down as such, and a part that would go beyond the time is left out and named.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import workload
from sides import loss_of, separate_logps
from step_dense import POSITIONS, dense_rows, plain_rows, windows
from torch import Tensor
from transformers import LlamaForCausalLM
from workload import PAD, Examples, Workload, llama_config

from rosepo_ray.config.policy import LoraSettings, PromptSettings, ScratchPolicy
from rosepo_ray.policy.engine.layout import pack
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.model import Policy, causal_lm
from rosepo_ray.policy.pretrained import add_lora

BF16_PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}
"""Dense bf16 operations a second of the tensor cores, by the makers' data sheets."""
SHAPES = {
    "135m": (Workload(576, 1536, 30, 9, 49_152, (250, 310), 6.5, 2.6, (2, 14)), 16, False),
    "1b": (Workload(2048, 8192, 16, 32, 128_256, (250, 310), 6.5, 2.6, (2, 14)), 8, False),
    "8b": (Workload(4096, 14_336, 32, 32, 128_256, (250, 310), 6.5, 2.6, (2, 14)), 4, True),
}
"""The shape, windows a step, and whether activations are recomputed."""
TINY = {"tiny": (workload.TINY, 2, True)}
ROUNDS = 3


def build(shape: Workload, device: str, dtype: torch.dtype, recompute: bool) -> Any:
    """A Llama of random weights behind fresh adapters, made where it will stay."""
    torch.manual_seed(1)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        try:
            model = LlamaForCausalLM(llama_config(shape))
        finally:
            torch.set_default_dtype(torch.float32)
    model = add_lora(model, LoraSettings(), 1).to(device)
    if recompute:
        causal_lm(model).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def equality(shape: Workload, device: str) -> dict[str, Any]:
    """Largest differences of a response's log-probability, in nats, and the mean one of bf16."""
    found: dict[str, Any] = {}
    batch = windows(shape, 2, 3)
    model = build(shape, device, torch.float32, False)
    for name, dtype in (("fp32", None), ("bf16", torch.bfloat16)):
        with torch.no_grad(), torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
            plain = separate(model, batch)
            for kind, rows in (("packed", plain_rows(batch)), ("dense", dense_rows(batch))):
                difference = (PackedPolicy(model)(pack(rows, PAD).to(torch.device(device))) - plain).abs()
                found[f"{kind}_{name}"] = {"largest": float(difference.max()), "mean": float(difference.mean())}
    return found


def separate(model: Any, batch: Examples) -> Tensor:
    """Each response with its own copy of the prompt; sides.py's control works where the tensors are made."""
    with torch.device(next(model.parameters()).device):
        return separate_logps(model, batch, 64)


def trl_form(model: Any, batch: Examples) -> Tensor:
    """As TRL's concatenated forward pass: all responses with their prompts padded to one length, logits everywhere."""
    device = next(model.parameters()).device
    pairs = [(p, answer) for p, answers in zip(batch.prompts, batch.responses, strict=True) for answer in answers]
    length = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids, mask = torch.full((len(pairs), length), PAD), torch.zeros((len(pairs), length), dtype=torch.bool)
    for row, (prompt, answer) in enumerate(pairs):
        ids[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        mask[row, len(prompt) : len(prompt) + len(answer)] = True
    attention = (torch.arange(length) < torch.tensor([len(p) + len(a) for p, a in pairs])[:, None]).long()
    logits = model(input_ids=ids.to(device), attention_mask=attention.to(device), use_cache=False).logits[:, :-1]
    logps = logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None].to(device))[..., 0]
    return (logps * mask[:, 1:].to(device)).sum(1)


Logps = Callable[[Any, Examples], Tensor]


def packed_logps(rows_of: Callable[[Examples], list[Any]]) -> Logps:
    def logps(model: Any, batch: Examples) -> Tensor:
        found: Tensor = PackedPolicy(model)(pack(rows_of(batch), PAD).to(next(model.parameters()).device))
        return found

    return logps


def step(model: Any, logps: Logps, batch: Examples, optimiser: torch.optim.Optimizer, device: str) -> None:
    """One step of preference training; a pass holds one window's pairs, so that every side can be fitted."""
    for start in range(0, len(batch), POSITIONS):
        part = batch.pick(list(range(start, start + POSITIONS)))
        with torch.autocast(device, torch.bfloat16):
            values = logps(model, part)
        (loss_of(values.float(), values.detach().float(), POSITIONS) / len(batch)).backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def timed(model: Any, logps: Logps, batch: Examples, device: str) -> dict[str, Any]:
    """Median seconds of a step, and the bytes that it takes at most; or why there are none."""
    gpu = device == "cuda"
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    seconds: list[float] = []
    try:
        for number in range(1 + ROUNDS):
            if gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            step(model, logps, batch, optimiser, device)
            if gpu:
                torch.cuda.synchronize()
            if number:
                seconds.append(time.perf_counter() - began)
    except torch.OutOfMemoryError:
        model.zero_grad(set_to_none=True)
        return {"failed": "out of memory"}
    peak = torch.cuda.max_memory_allocated() if gpu else None
    return {"seconds": statistics.median(seconds), "peak_bytes": peak}


def arithmetic(shape: Workload, tokens: int) -> float:
    """Operations of the layers' matrix products, forward and backward, per step; the head and attention not counted."""
    weights = shape.layers * (4 * shape.hidden**2 + 3 * shape.hidden * shape.inner)
    return 6.0 * weights * tokens


def steps(shape: Workload, count: int, recompute: bool, device: str, left: Callable[[], float]) -> dict[str, Any]:
    model = build(shape, device, torch.bfloat16 if recompute else torch.float32, recompute)
    card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    peak = next((rate for name, rate in BF16_PEAK.items() if name in card), None)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    for rejected in (1, 3):
        batch = windows(shape, count, rejected)
        sides = {
            "dense": packed_logps(dense_rows),
            "packed": packed_logps(plain_rows),
            "separate": separate,
            "trl_form": trl_form,
        }
        for name, logps in sides.items():
            if left() < 30:
                found[f"{name}_k{rejected}"] = {"failed": "no time left"}
                continue
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
            result = timed(model, logps, batch, device)
            if name in ("dense", "packed") and "seconds" in result:
                rows = dense_rows(batch) if name == "dense" else plain_rows(batch)
                tokens = pack(rows, PAD).tokens
                result |= {"tokens": tokens, "tokens_per_second": tokens / result["seconds"]}
                if peak:
                    result["share_of_bf16_peak"] = arithmetic(shape, tokens) / result["seconds"] / peak
            found[f"{name}_k{rejected}"] = result
            print(name, rejected, result, flush=True)
    return found


def search(device: str, titles: int) -> dict[str, Any]:
    """Seconds for the exact ten best titles of one user, by a policy of the 135 M shape with its own vocabulary."""
    import numpy as np

    from rosepo_ray.catalogue.requests import Request
    from rosepo_ray.policy import store
    from rosepo_ray.policy.search.ranking import top_k
    from rosepo_ray.policy.search.title_trie import TitleTrie

    rng = np.random.default_rng(3)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(3, 9))) for _ in range(4000)]
    names = list(dict.fromkeys(" ".join(rng.choice(words, rng.integers(2, 6))) for _ in range(titles)))
    settings = ScratchPolicy(hidden=512, layers=8, heads=8, vocabulary=4096)
    made = store.build(settings, PromptSettings(), names, [1] * len(names), seed=1)
    policy: Policy = replace(made, model=made.model.to(device))
    trie = TitleTrie.build(policy.prompter, names, names)
    prompts = [policy.prompter.prompt_ids(Request(names[n : n + 10])) for n in range(8)]
    top_k(policy, trie, prompts[:1], 10, ["warm"])
    began = time.perf_counter()
    top_k(policy, trie, prompts, 10, [str(n) for n in range(len(prompts))])
    return {"titles": len(names), "seconds_per_user": (time.perf_counter() - began) / len(prompts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json")
    parser.add_argument("--tiny", action="store_true", help="a look whether the script runs, on a CPU too")
    parser.add_argument("--seconds", type=float, default=460, help="what the whole may take")
    given = parser.parse_args()
    began = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not given.tiny:
        raise SystemExit("error: no GPU here; --tiny tries the script on a CPU")

    def left() -> float:
        return given.seconds - (time.monotonic() - began)

    shapes = TINY if given.tiny else SHAPES
    first = next(iter(shapes.values()))[0]
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "equality": equality(first, device),
        "steps": {},
    }
    file = given.out / ("gpu_tiny.json" if given.tiny else "gpu.json")
    given.out.mkdir(parents=True, exist_ok=True)

    def write() -> None:  # after each part: what a time limit ends is not lost
        file.write_text(json.dumps(result | {"seconds": time.monotonic() - began}, indent=2) + "\n")

    write()
    result["search"] = search(device, 500 if given.tiny else 50_000)
    for name, (shape, count, recompute) in shapes.items():
        result["steps"][name] = (
            steps(shape, count, recompute, device, left) if left() > 60 else {"failed": "no time left"}
        )
        write()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
