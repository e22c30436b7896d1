"""SASRec: what a prediction may depend on, and that it learns."""

import itertools

import pytest
import torch

from rosepo_ray.oracle import sasrec_net
from rosepo_ray.oracle.sasrec import Sasrec
from rosepo_ray.oracle.sasrec_net import Inputs, SasRec, Shape
from rosepo_ray.training import in_process
from rosepo_ray.training.program import MicroBatch, Plain

SHAPE = Shape(items=12, history=5, hidden=16, layers=2, heads=2, dropout=0.3)


def model(shape=SHAPE, seed=1, scale=8.0):
    """Weights larger than at the start, so that every path changes the result visibly."""
    net = SasRec(shape, seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight *= scale if weight.dim() > 1 else 1.0
    return net


def inputs(items, targets, seeds=None):
    items = torch.tensor(items)
    return Inputs(items, torch.tensor(targets), torch.arange(len(items)) if seeds is None else torch.tensor(seeds))


def test_a_later_item_does_not_change_an_earlier_prediction():
    net = model().eval()
    first = net.states(torch.tensor([[1, 2, 3, 4, 5]]))
    second = net.states(torch.tensor([[1, 2, 3, 9, 5]]))
    torch.testing.assert_close(first[:, :3], second[:, :3], atol=1e-6, rtol=0)
    assert (first[:, 3:] - second[:, 3:]).abs().min(-1).values.max() > 1e-3


def test_an_earlier_item_changes_a_later_prediction():
    net = model().eval()
    first, second = net.states(torch.tensor([[1, 2, 3, 4, 5], [7, 2, 3, 4, 5]]))
    assert (first[4] - second[4]).abs().max() > 1e-3


def test_padding_is_invisible_and_positions_count_from_the_most_recent_item():
    net = model().eval()
    padded = net.states(torch.tensor([[0, 0, 0, 4, 5]]))[:, -2:]
    short = net.states(torch.tensor([[4, 5]]))
    torch.testing.assert_close(padded, short, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(net.states(torch.zeros(1, 5, dtype=torch.int64))).all()


def test_loss_is_the_summed_cross_entropy_over_the_whole_catalogue():
    net = model().eval()
    batch = inputs([[0, 0, 3, 4, 5], [1, 2, 3, 4, 6]], [[0, 0, 4, 5, 7], [2, 3, 4, 6, 0]])
    total, count = net(batch)
    states = net.states(batch.items_BT)
    by_hand = 0.0
    for row in range(2):
        for place in range(5):
            target = int(batch.targets_BT[row, place])
            if target:
                logits = torch.stack([states[row, place] @ net.item_embedding.weight[n] for n in range(1, 13)])
                by_hand += (torch.logsumexp(logits, 0) - logits[target - 1]).item()
    assert int(count) == 7
    assert total.item() == pytest.approx(by_hand, rel=1e-5)


def test_slices_of_the_logits_give_the_same_loss_and_gradient(monkeypatch):
    net = model().train()
    batch = inputs([[1, 2, 3, 4, 5], [6, 2, 3, 4, 6]], [[2, 3, 4, 5, 7], [2, 3, 4, 6, 1]])

    def run():
        net.zero_grad()
        total, _ = net(batch)
        total.backward()
        return total.item(), net.item_embedding.weight.grad.clone()

    whole, gradient = run()
    monkeypatch.setattr(sasrec_net, "LOGITS_AT_ONCE", 3 * SHAPE.items)
    sliced, sliced_gradient = run()
    assert sliced == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(sliced_gradient, gradient, atol=1e-5, rtol=1e-4)


def test_dropout_follows_the_row_not_the_batch():
    net = model().train()
    items = [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [2, 2, 2, 2, 2]]
    targets = [[2, 3, 4, 5, 6], [4, 3, 2, 1, 9], [3, 3, 3, 3, 3]]
    whole = net(inputs(items, targets, [11, 12, 13]))[0].item()
    alone = sum(net(inputs([i], [t], [s]))[0].item() for i, t, s in zip(items, targets, [11, 12, 13], strict=True))
    assert alone == pytest.approx(whole, rel=1e-5)
    assert net(inputs(items, targets, [11, 12, 14]))[0].item() != pytest.approx(whole, rel=1e-4)
    net.eval()
    assert net(inputs(items, targets, [11, 12, 13]))[0].item() == net(inputs(items, targets, [0, 0, 0]))[0].item()


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    first = SasRec(SHAPE, 5).state_dict()
    torch.manual_seed(2)
    again, other = SasRec(SHAPE, 5).state_dict(), SasRec(SHAPE, 6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["item_embedding.weight"], other["item_embedding.weight"])
    assert not first["item_embedding.weight"][0].any()


def test_overfits_a_cycle():
    # 1 -> 2 -> 3 -> 4 -> 1 ...: after training the next item is certain, wherever the window starts.
    shape = Shape(items=4, history=3, hidden=16, layers=1, heads=2, dropout=0.0)
    items = [[1 + (s + k) % 4 for k in range(3)] for s in range(4)]
    targets = [[1 + (s + k + 1) % 4 for k in range(3)] for s in range(4)]
    settings = Sasrec(steps=100, lr=0.03, batch=4, micro_batch=4, dropout=0.0)
    losses = []
    batch = [MicroBatch(inputs(items, targets), 12, [str(n) for n in range(4)])]

    class Cycle(Plain):
        module = SasRec(shape, 1)

        def batches(self, start):
            return itertools.repeat(batch)

        def loss(self, outputs, micro):
            return outputs[0], {}

    in_process.train(Cycle(), settings, 100, lambda step, metrics: losses.append(metrics["loss"]))
    assert losses[0] == pytest.approx(1.386, abs=0.15)  # ln 4: it starts without an opinion
    assert losses[-1] < 0.02
    net = Cycle.module.eval()
    logits = net.states(torch.tensor([[0, 0, 2]]))[0, -1] @ net.item_embedding.weight[1:].T
    assert int(logits.argmax()) + 1 == 3


def test_padding_embedding_stays_zero_in_training():
    net = model().train()
    net(inputs([[0, 0, 3, 4, 5]], [[0, 0, 4, 5, 7]]))[0].backward()
    assert not net.item_embedding.weight.grad[0].any()
