"""Objectives against numbers derived by hand, and a contract that every registered objective keeps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.errors import RosepoError
from rosepo_ray.losses import OBJECTIVES, conservative, margins, robust

MARGIN = st.floats(-80, 80)
EPSILON = st.floats(0, 0.4)


def grid(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def dpo(margins_BK: torch.Tensor, beta: float) -> torch.Tensor:
    """-log sigmoid(beta D), written as in the DPO paper."""
    return -torch.log(torch.sigmoid(beta * margins_BK))


def gradient(objective: str, margin: float, epsilon: float, beta: float) -> float:
    margins_BK = grid(margin).requires_grad_()
    OBJECTIVES[objective](margins_BK, grid(epsilon), beta).sum().backward()
    assert margins_BK.grad is not None
    return margins_BK.grad.item()


def test_margins_by_hand() -> None:
    # Chosen moved by -10 - (-12) = +2; the rejected by -11 - (-11) = 0 and by -9 - (-14) = +5: D = 2 and -3.
    got = margins(torch.tensor([-10.0]), grid(-11, -9).float(), torch.tensor([-12.0]), grid(-11, -14).float())
    assert got.tolist() == [[2.0, -3.0]]


def test_margins_are_zero_where_the_policy_is_the_reference() -> None:
    chosen_B, rejected_BK = torch.randn(4), torch.randn(4, 3)
    assert torch.equal(margins(chosen_B, rejected_BK, chosen_B, rejected_BK), torch.zeros(4, 3))


def test_margins_of_bf16_are_subtracted_in_fp32() -> None:
    low = torch.tensor([1.0], dtype=torch.bfloat16)
    # 1 - (-0.001953125) = 1.001953125 needs more digits than bf16's 8 bits: it would give 1.0.
    small = torch.tensor([[-0.001953125]], dtype=torch.bfloat16)
    got = margins(low, torch.zeros(1, 1), torch.zeros(1), -small)
    assert got.dtype == torch.float32
    assert got.item() == 1.001953125


@pytest.mark.parametrize("rejected", [(4,), (3, 2), (4, 2, 1)])
def test_margins_refuse_shapes_that_would_broadcast(rejected: tuple[int, ...]) -> None:
    with pytest.raises(RosepoError, match=r"\[B, K\]"):
        margins(torch.zeros(4), torch.zeros(rejected), torch.zeros(4), torch.zeros(rejected))


def test_conservative_by_hand() -> None:
    # beta D = 0.5 * 2 = 1: softplus(-1) = ln(1 + e^-1) = 0.3132617, softplus(1) = 1.3132617.
    # e = 0.25: 0.75 * 0.3132617 + 0.25 * 1.3132617 = 0.5632617.
    assert conservative(grid(2), grid(0.25), 0.5).item() == pytest.approx(0.5632617, abs=1e-7)
    # At D = 0 both terms are ln 2, whatever e.
    assert conservative(grid(0), grid(0.3), 0.5).item() == pytest.approx(math.log(2))


def test_robust_by_hand() -> None:
    # As above with e = 0.25: (0.75 * 0.3132617 - 0.25 * 1.3132617) / 0.5 = (0.2349463 - 0.3283154) / 0.5 = -0.1867383.
    assert robust(grid(2), grid(0.25), 0.5).item() == pytest.approx(-0.1867383, abs=1e-7)


def test_constant_epsilon_is_cdpo() -> None:
    # cDPO: (1-e) L_DPO(D) + e L_DPO(-D), here written with log sigmoid.
    margins_BK = torch.linspace(-5, 5, 11, dtype=torch.float64).reshape(1, -1)
    expected = 0.9 * dpo(margins_BK, 0.3) + 0.1 * dpo(-margins_BK, 0.3)
    torch.testing.assert_close(conservative(margins_BK, torch.full_like(margins_BK, 0.1), 0.3), expected)


@pytest.mark.parametrize(
    ("epsilon", "optimum"),
    # logit(1 - e): ln(0.9 / 0.1) = 2.1972246, ln(0.75 / 0.25) = ln 3 = 1.0986123, ln 1 = 0, and beyond 0.5 the
    # oracle overrules the label: ln(0.2 / 0.8) = -1.3862944.
    [(0.1, 2.1972246), (0.25, 1.0986123), (0.5, 0.0), (0.8, -1.3862944)],
)
def test_conservative_optimum_is_logit_of_one_minus_epsilon(epsilon: float, optimum: float) -> None:
    beta = 0.2
    assert gradient("conservative", optimum / beta, epsilon, beta) == pytest.approx(0, abs=1e-8)
    assert gradient("conservative", (optimum - 0.1) / beta, epsilon, beta) < -1e-4
    assert gradient("conservative", (optimum + 0.1) / beta, epsilon, beta) > 1e-4


@given(margin=MARGIN, epsilon=EPSILON, beta=st.floats(0.01, 1))
def test_robust_is_unbiased_under_flipped_labels(margin: float, epsilon: float, beta: float) -> None:
    # A flipped label turns the sign of D: (1-e) L(D) + e L(-D) must be the clean DPO loss at D.
    flipped = (1 - epsilon) * robust(grid(margin), grid(epsilon), beta)
    flipped = flipped + epsilon * robust(grid(-margin), grid(epsilon), beta)
    clean = torch.nn.functional.softplus(-beta * grid(margin))
    torch.testing.assert_close(flipped, clean, rtol=1e-9, atol=1e-9)


def test_robust_has_no_finite_optimum() -> None:
    assert all(gradient("robust", margin, 0.3, 1.0) < 0 for margin in (-20.0, 0.0, 20.0))


def test_robust_refuses_an_epsilon_of_a_half() -> None:
    with pytest.raises(RosepoError, match=r"epsilon 0\.5.*align\.epsilon_max"):
        robust(grid(1, 1), grid(0.1, 0.5), 0.1)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
class TestObjectiveContract:
    """What every objective of the registry must keep; a new one inherits these tests by being registered."""

    def test_shape_is_kept_and_nothing_reduced(self, name: str) -> None:
        assert OBJECTIVES[name](torch.randn(5, 3), torch.full((5, 3), 0.1), 0.1).shape == (5, 3)

    def test_epsilon_zero_is_dpo(self, name: str) -> None:
        margins_BK = torch.linspace(-30, 30, 13, dtype=torch.float64).reshape(1, -1)
        got = OBJECTIVES[name](margins_BK, torch.zeros_like(margins_BK), 0.1)
        torch.testing.assert_close(got, dpo(margins_BK, 0.1))

    def test_each_pair_stands_alone(self, name: str) -> None:
        """K = 1 is the pairwise form: a column of [B, K] equals the objective of that column."""
        margins_BK, epsilon_BK = torch.randn(4, 3), 0.4 * torch.rand(4, 3)
        whole = OBJECTIVES[name](margins_BK, epsilon_BK, 0.2)
        for k in range(3):
            alone = OBJECTIVES[name](margins_BK[:, k : k + 1], epsilon_BK[:, k : k + 1], 0.2)
            torch.testing.assert_close(whole[:, k : k + 1], alone)

    def test_finite_with_finite_gradient_at_500(self, name: str) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            margins_BK = torch.tensor([[-5000.0, 5000.0]], dtype=dtype, requires_grad=True)
            loss_BK = OBJECTIVES[name](margins_BK, torch.tensor([[0.3, 0.3]]), 0.1)
            assert loss_BK.dtype == torch.float32
            assert torch.isfinite(loss_BK).all()
            loss_BK.sum().backward()
            assert margins_BK.grad is not None
            assert torch.isfinite(margins_BK.grad).all()

    @given(margin=MARGIN, epsilon=EPSILON, beta=st.floats(0.01, 1))
    def test_decreasing_below_the_optimum(self, name: str, margin: float, epsilon: float, beta: float) -> None:
        # logit(1 - e) for the conservative form; the robust one has no finite optimum, so this holds for it as well.
        optimum = math.log((1 - epsilon) / epsilon) if epsilon > 1e-12 else math.inf
        if beta * margin < min(optimum, 20) - 1e-3:
            assert gradient(name, margin, epsilon, beta) < 0

    @given(margin=MARGIN, epsilon=EPSILON)
    def test_only_beta_times_the_margin_counts(self, name: str, margin: float, epsilon: float) -> None:
        once = OBJECTIVES[name](grid(margin), grid(epsilon), 0.2)
        torch.testing.assert_close(once, OBJECTIVES[name](grid(margin / 2), grid(epsilon), 0.4))

    def test_gradient_agrees_with_finite_differences(self, name: str) -> None:
        margins_BK = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
        epsilon_BK = 0.4 * torch.rand(3, 2, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda m: OBJECTIVES[name](m, epsilon_BK, 0.7), (margins_BK,))
