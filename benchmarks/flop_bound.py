"""How long a shared-prefix step must take on this machine: its FLOPs, each matrix product at the machine's own rate.

Counted is what one optimiser step on a batch cannot avoid, forward and backward:

- every linear layer on the tokens that are fed: each prompt once, each response without its last token, no padding;
- forward `x W`, backward `g W^T`; with LoRA the frozen weight gets no gradient, the adapter's two factors get theirs,
  and the adapter is added to the weight where that is less than computing beside it
  (and `g W^T` is not needed where nothing before the layer learns: query, key and value of the first block);
  without LoRA every weight gets its gradient;
- in the last block query, attention, output projection and MLP on the positions that predict a response token only,
  and the head on these alone; key and value on every token;
- attention on the pairs of positions that see each other (a response sees its prompt and itself, each causally).

Not counted: embedding, norms, softmax, rotary positions, activations, losses and the optimiser, which are no matrix
products; and recomputation, which is not needed. Each product's rate is measured at its own shape (fp32, one thread),
by torch.mm into an output allocated before; attention's as the two batched products over whole rows.
:meth:`Bound.seconds` runs each distinct product anew, so that a round's bound and its step met the same machine.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from workload import Examples, Workload

RANK = 16
REPEATS = 3


@dataclass(frozen=True)
class Product:
    """[batch] x [rows, inner] @ [inner, columns]; `transposed` names operands that lie transposed in memory."""

    rows: int
    inner: int
    columns: int
    transposed: Literal["", "left", "right"] = ""
    batch: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.rows * self.inner * self.columns


@dataclass(frozen=True)
class Counts:
    """What a batch of examples feeds, summed over its rows."""

    rows: int
    tokens: int
    predicting: int
    """Distinct positions that predict a response token."""
    pairs: int
    """(query, key) that see each other."""
    predicting_pairs: int
    """Of these, those whose query predicts a response token."""


def count(batch: Examples) -> Counts:
    tokens = predicting = pairs = predicting_pairs = 0
    for prompt, answers in zip(batch.prompts, batch.responses, strict=True):
        size, fed = len(prompt), [len(answer) - 1 for answer in answers]
        seen = sum(n * size + n * (n + 1) // 2 for n in fed)
        tokens += size + sum(fed)
        predicting += 1 + sum(fed)
        pairs += size * (size + 1) // 2 + seen
        predicting_pairs += size + seen
    return Counts(len(batch), tokens, predicting, pairs, predicting_pairs)


def linear(rows: int, inner: int, columns: int, lora: bool, first: bool = False) -> Iterator[Product]:
    """The products of one linear layer [inner -> columns], forward and backward."""
    yield Product(rows, inner, columns, "right")
    if not (first and lora):
        yield Product(rows, columns, inner)
    if not lora:
        yield Product(columns, rows, inner, "left")
        return
    yield Product(rows, inner, RANK, "right")
    yield Product(rows, columns, RANK)
    yield Product(columns, rows, RANK, "left")
    yield Product(RANK, rows, inner, "left")
    # The adapter's own contribution, forward and backward: through the weight, or beside it, whichever is less.
    for beside in (Product(rows, RANK, columns, "right"), *(() if first else (Product(rows, RANK, inner),))):
        yield min(Product(columns, RANK, inner), beside, key=lambda product: product.flops)


def products(workload: Workload, counts: Counts) -> Counter[Product]:
    """All products of a step except attention's, with how often each occurs."""
    hidden, inner, lora = workload.hidden, workload.inner, workload.lora
    found: Counter[Product] = Counter()
    for layer in range(workload.layers):
        here = counts.predicting if layer == workload.layers - 1 else counts.tokens
        for rows in (here, counts.tokens, counts.tokens):  # query, key, value
            found.update(linear(rows, hidden, hidden, lora, first=layer == 0))
        found.update(linear(here, hidden, hidden, lora))
        for columns in (inner, inner):  # gate and up
            found.update(linear(here, hidden, columns, lora))
        found.update(linear(here, inner, hidden, lora))
    # The head is tied to the embedding: frozen with LoRA, which does not adapt it.
    found[Product(counts.predicting, hidden, workload.vocabulary, "right")] += 1
    found[Product(counts.predicting, workload.vocabulary, hidden)] += 1
    if not lora:
        found[Product(workload.vocabulary, counts.predicting, hidden, "left")] += 1
    return found


class Bound:
    """The least seconds of a step on `batch`, measured anew at each call."""

    def __init__(self, workload: Workload, batch: Examples) -> None:
        self.counts = count(batch)
        self.linear = products(workload, self.counts)
        # Attention: scores and weighted values forward; two products each backward. Rates at whole rows.
        length, width = round(self.counts.tokens / self.counts.rows), workload.hidden // workload.heads
        batched = self.counts.rows * workload.heads
        self.scores = Product(length, width, length, "right", batched)
        self.values = Product(length, length, width, "", batched)
        seen = self.counts.pairs * (workload.layers - 1) + self.counts.predicting_pairs
        self.attention_flops = 2 * seen * workload.hidden
        """Of one of the six products of attention, over all layers."""
        self.flops = sum(p.flops * n for p, n in self.linear.items()) + 6 * self.attention_flops

    def seconds(self) -> float:
        linear = sum(number * _seconds(product) for product, number in self.linear.items())
        attention = (
            3 * self.attention_flops / product.flops * _seconds(product) for product in (self.scores, self.values)
        )
        return linear + sum(attention)

    def report(self, seconds: float) -> dict[str, float]:
        return {**vars(self.counts), "gflop": self.flops / 1e9, "gflop_per_second": self.flops / 1e9 / seconds}


def _seconds(product: Product) -> float:
    """The median of a few runs; operands differ in nothing from those of a step but their values."""
    lead = () if product.batch == 1 else (product.batch,)
    left, right = (product.rows, product.inner), (product.inner, product.columns)
    a = torch.rand(*lead, *left[::-1]).mT if product.transposed == "left" else torch.rand(*lead, *left)
    b = torch.rand(*lead, *right[::-1]).mT if product.transposed == "right" else torch.rand(*lead, *right)
    out = torch.empty(*lead, product.rows, product.columns)
    torch.matmul(a, b, out=out)
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        torch.matmul(a, b, out=out)
        found.append(time.perf_counter() - began)
    return statistics.median(found)
