"""Objectives against numbers derived by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.errors import RosepoError
from rosepo_ray.losses import Conservative, DrDpo, Objective, Pairs, Robust, Simpo

MARGIN = st.floats(-80, 80)
EPSILON = st.floats(0, 0.4)
OF_MARGIN_AND_EPSILON = [Conservative, Robust]


def table(*rows: list[float]) -> torch.Tensor:
    """[B, R] of ragged rows; what is missing is NaN, which must not matter."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[math.nan] * (width - len(row))] for row in rows], dtype=torch.float64)


def pairs(
    logps_BR: torch.Tensor,
    ref_logps_BR: torch.Tensor | None = None,
    epsilon_BR: torch.Tensor | None = None,
    lengths_BR: torch.Tensor | None = None,
) -> Pairs:
    """Where a log-probability is NaN no response is."""
    valid_BR = ~logps_BR.isnan()
    lengths_BR = torch.ones(logps_BR.shape, dtype=torch.long) if lengths_BR is None else lengths_BR
    return Pairs(logps_BR, lengths_BR, valid_BR, [f"u{n}:1" for n in range(len(logps_BR))], ref_logps_BR, epsilon_BR)


def of_margins(margins_BK: torch.Tensor, epsilon_BK: torch.Tensor | float = 0.0) -> Pairs:
    """Pairs with these margins: the policy moved nothing but the rejected ones, by minus the margin."""
    zeros_B1 = torch.zeros(len(margins_BK), 1, dtype=margins_BK.dtype)
    logps_BR = torch.cat([zeros_B1, -margins_BK], 1)
    epsilon_BK = epsilon_BK + torch.zeros_like(margins_BK)
    return pairs(logps_BR, torch.zeros_like(logps_BR), torch.cat([zeros_B1, epsilon_BK], 1))


def loss(objective: Objective, margin: float, epsilon: float = 0.0) -> torch.Tensor:
    return objective(of_margins(table([margin]), epsilon))[0]


def gradient(objective: Objective, margin: float, epsilon: float) -> float:
    margins_BK = table([margin]).requires_grad_()
    (found,) = torch.autograd.grad(objective(of_margins(margins_BK, epsilon)).sum(), margins_BK)
    return found.item()


def dpo(margins_BK: torch.Tensor, beta: float) -> torch.Tensor:
    """-log sigmoid(beta D), written as in the DPO paper."""
    return -torch.log(torch.sigmoid(beta * margins_BK))


class TestPairs:
    def test_margins_by_hand(self) -> None:
        # Chosen moved by -10 - (-12) = +2; the rejected by -11 - (-11) = 0 and by -9 - (-14) = +5: D = 2 and -3.
        got = pairs(table([-10, -11, -9]), table([-12, -11, -14])).margins_BK()
        assert got.tolist() == [[2.0, -3.0]]

    def test_margins_are_zero_where_the_policy_is_the_reference(self) -> None:
        logps_BR = torch.randn(4, 4)
        assert torch.equal(pairs(logps_BR, logps_BR).margins_BK(), torch.zeros(4, 3))

    def test_bf16_is_subtracted_in_fp32(self) -> None:
        # 1 - (-0.001953125) = 1.001953125 needs more digits than bf16's 8 bits: it would give 1.0.
        low = torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16)
        reference = torch.tensor([[-0.001953125, 0.0]], dtype=torch.bfloat16)
        got = pairs(low, reference).margins_BK()
        assert got.dtype == torch.float32
        assert got.item() == 1.001953125
        assert Conservative().build()(pairs(low, reference, torch.zeros_like(low))).dtype == torch.float32

    def test_the_mean_is_over_the_rejected_that_there_are(self) -> None:
        ragged = pairs(table([0, 1, 2, 6], [0, 5]))
        assert ragged.rejected_mean_B(ragged.logps_BR[:, 1:]).tolist() == [3.0, 5.0]

    @pytest.mark.parametrize("shape", [(4,), (3, 2), (4, 1), (4, 3), (4, 2, 1)])
    def test_shapes_that_would_broadcast_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(RosepoError, match=r"\[B, R\].*broadcast"):
            pairs(torch.zeros(4, 2), torch.zeros(shape))
        with pytest.raises(RosepoError, match=r"\[B, R\]"):
            pairs(torch.zeros(4, 2), lengths_BR=torch.zeros(shape))

    def test_other_shapes_than_rows_of_pairs_are_refused(self) -> None:
        for shape in [(4,), (4, 1), (4, 2, 2)]:
            with pytest.raises(RosepoError, match="R of 2 or more"):
                pairs(torch.zeros(shape))
        with pytest.raises(RosepoError, match="3 row ids"):
            Pairs(torch.zeros(4, 2), torch.ones(4, 2), torch.ones(4, 2).bool(), ["a", "b", "c"])


class TestConservative:
    def test_by_hand(self) -> None:
        # beta D = 0.5 * 2 = 1: softplus(-1) = ln(1 + e^-1) = 0.3132617, softplus(1) = 1.3132617.
        # e = 0.25: 0.75 * 0.3132617 + 0.25 * 1.3132617 = 0.5632617.
        objective = Conservative(beta=0.5).build()
        assert loss(objective, 2, 0.25).item() == pytest.approx(0.5632617, abs=1e-7)
        # At D = 0 both terms are ln 2, whatever e.
        assert loss(objective, 0, 0.3).item() == pytest.approx(math.log(2))

    def test_the_mean_over_ragged_rejected_by_hand(self) -> None:
        # As above: 0.5632617 for D = 2 and e = 0.25, ln 2 = 0.6931472 for D = 0; their mean is 0.6282045.
        ragged = pairs(table([0, -2, 0], [0, -2]), table([0, 0, 0], [0, 0]), table([0, 0.25, 0.3], [0, 0.25]))
        got = Conservative(beta=0.5).build()(ragged)
        assert got.tolist() == pytest.approx([0.6282045, 0.5632617], abs=1e-7)

    def test_constant_epsilon_is_cdpo(self) -> None:
        # cDPO: (1-e) L_DPO(D) + e L_DPO(-D), here written with log sigmoid.
        margins_BK = torch.linspace(-5, 5, 11, dtype=torch.float64).reshape(-1, 1)
        expected = 0.9 * dpo(margins_BK, 0.3) + 0.1 * dpo(-margins_BK, 0.3)
        torch.testing.assert_close(Conservative(beta=0.3).build()(of_margins(margins_BK, 0.1)), expected[:, 0])

    @pytest.mark.parametrize(
        ("epsilon", "optimum"),
        # logit(1 - e): ln(0.9 / 0.1) = 2.1972246, ln(0.75 / 0.25) = ln 3 = 1.0986123, ln 1 = 0, and beyond 0.5 the
        # oracle overrules the label: ln(0.2 / 0.8) = -1.3862944.
        [(0.1, 2.1972246), (0.25, 1.0986123), (0.5, 0.0), (0.8, -1.3862944)],
    )
    def test_optimum_is_logit_of_one_minus_epsilon(self, epsilon: float, optimum: float) -> None:
        beta = 0.2
        objective = Conservative(beta=beta).build()
        assert gradient(objective, optimum / beta, epsilon) == pytest.approx(0, abs=1e-8)
        assert gradient(objective, (optimum - 0.1) / beta, epsilon) < -1e-4
        assert gradient(objective, (optimum + 0.1) / beta, epsilon) > 1e-4


class TestRobust:
    def test_by_hand(self) -> None:
        # softplus(-1) and softplus(1) as above, e = 0.25:
        # (0.75 * 0.3132617 - 0.25 * 1.3132617) / 0.5 = (0.2349463 - 0.3283154) / 0.5 = -0.1867383.
        assert loss(Robust(beta=0.5).build(), 2, 0.25).item() == pytest.approx(-0.1867383, abs=1e-7)

    @given(margin=MARGIN, epsilon=EPSILON, beta=st.floats(0.01, 1))
    def test_unbiased_under_flipped_labels(self, margin: float, epsilon: float, beta: float) -> None:
        # A flipped label turns the sign of D: (1-e) L(D) + e L(-D) must be the clean DPO loss at D.
        objective = Robust(beta=beta).build()
        flipped = (1 - epsilon) * loss(objective, margin, epsilon) + epsilon * loss(objective, -margin, epsilon)
        clean = torch.nn.functional.softplus(-beta * table([margin]))[0, 0]
        torch.testing.assert_close(flipped, clean, rtol=1e-9, atol=1e-9)

    def test_no_finite_optimum(self) -> None:
        assert all(gradient(Robust(beta=1.0).build(), margin, 0.3) < 0 for margin in (-20.0, 0.0, 20.0))

    def test_an_epsilon_of_a_half_is_refused(self) -> None:
        with pytest.raises(RosepoError, match=r"epsilon 0\.5.*oracle\.epsilon_max"):
            Robust().build()(of_margins(table([1, 1]), table([0.1, 0.5])))

    def test_an_epsilon_where_nothing_is_does_not_count(self) -> None:
        ragged = pairs(table([0, 1, 1], [0, 1]), torch.zeros(2, 3), torch.tensor([[0, 0.1, 0.1], [0, 0.1, 0.9]]))
        assert torch.isfinite(Robust().build()(ragged)).all()


class TestSimpo:
    def test_by_hand(self) -> None:
        # Rewards: 2 * -6 / 3 = -4, 2 * -20 / 4 = -10 and 2 * -3 / 2 = -3. Leads 6 and -1, less the margin 1: 5 and -2.
        # softplus(-5) = ln(1 + e^-5) = 0.0067153, softplus(2) = 2.1269280; their mean is 1.0668217.
        given = pairs(table([-6, -20, -3], [-6, -3]), lengths_BR=torch.tensor([[3, 4, 2], [3, 2, 0]]))
        got = Simpo(beta=2.0, gamma=1.0).build()(given)
        assert got.tolist() == pytest.approx([1.0668217, 2.1269280], abs=1e-7)

    def test_a_response_said_twice_has_the_same_reward(self) -> None:
        """Length normalisation: twice the tokens at twice the log-probability weigh the same."""
        once = pairs(table([-6, -20]), lengths_BR=torch.tensor([[3, 4]]))
        twice = pairs(table([-6, -40]), lengths_BR=torch.tensor([[3, 8]]))
        assert torch.equal(Simpo().build()(once), Simpo().build()(twice))

    def test_reference_and_epsilon_play_no_part(self) -> None:
        logps_BR = torch.randn(3, 3)
        plain, full = pairs(logps_BR), pairs(logps_BR, torch.randn(3, 3), torch.rand(3, 3))
        assert torch.equal(Simpo().build()(plain), Simpo().build()(full))


class TestDrDpo:
    MARGINS = table([2, 0], [-2, math.nan])

    def test_by_hand(self) -> None:
        # beta D = 1, 0 and -1. With beta' = 1, exp(-l) = sigmoid(beta D) = 0.7310586, 0.5 and 0.2689414, whose mean
        # over the three pairs is 0.5: the loss is ln 2, for every row.
        got = DrDpo(beta=0.5, beta_prime=1.0).build()(of_margins(self.MARGINS))
        assert got.tolist() == pytest.approx([math.log(2)] * 2)
        # With beta' = 0.5 its squares: 0.5344466, 0.25 and 0.0723295, mean 0.2855920, -0.5 ln of it 0.6265955.
        got = DrDpo(beta=0.5, beta_prime=0.5).build()(of_margins(self.MARGINS))
        assert got.tolist() == pytest.approx([0.6265955] * 2, abs=1e-7)

    def test_limits_are_the_mean_and_the_easiest_pair(self) -> None:
        # The losses l: (0.3132617 + 0.6931472 + 1.3132617) / 3 = 0.7732235 and 0.3132617.
        for beta_prime, limit in [(1e6, 0.7732235), (1e-4, 0.3132617)]:
            got = DrDpo(beta=0.5, beta_prime=beta_prime).build()(of_margins(self.MARGINS))
            assert got.tolist() == pytest.approx([limit] * 2, abs=2e-4)

    def test_a_pair_counts_by_how_easy_it_is(self) -> None:
        # Weights are exp(-l) over their sum of 1.5, so d loss / d D = -weight * beta * sigmoid(-beta D):
        # -0.7310586 / 1.5 * 0.5 * 0.2689414 = -0.0655373, -0.5 / 1.5 * 0.5 * 0.5 = -0.0833333, and for the last
        # -0.2689414 / 1.5 * 0.5 * 0.7310586, which is the first again.
        margins_BK = self.MARGINS.clone().requires_grad_()
        (got,) = torch.autograd.grad(DrDpo(beta=0.5).build()(of_margins(margins_BK))[0], margins_BK)
        assert got.flatten().tolist() == pytest.approx([-0.0655373, -0.0833333, -0.0655373, 0.0], abs=1e-7)


@pytest.mark.parametrize("kind", [Conservative, Robust, DrDpo, Simpo])
def test_what_stands_where_nothing_is_has_no_effect_even_if_it_is_nan(kind: type) -> None:
    objective = kind().build()
    valid_BR = torch.tensor([[True, True, True], [True, True, False]])

    def losses_and_gradient(filler: float) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        values = [torch.rand(2, 3, generator=generator).where(valid_BR, filler) for _ in range(3)]
        logps_BR = values[0].requires_grad_()
        lengths_BR = torch.full((2, 3), 4).where(valid_BR, 0)
        losses_B = objective(Pairs(logps_BR, lengths_BR, valid_BR, ["a", "b"], values[1], 0.4 * values[2]))
        (by_logp_BR,) = torch.autograd.grad(losses_B.sum(), logps_BR)
        return losses_B.detach(), by_logp_BR

    for plain, filled in zip(losses_and_gradient(0.0), losses_and_gradient(math.nan), strict=True):
        assert torch.equal(plain, filled)


@pytest.mark.parametrize("kind", OF_MARGIN_AND_EPSILON)
class TestOfMarginAndEpsilon:
    """What the objectives with a smoothing factor share."""

    def test_epsilon_zero_is_dpo(self, kind: type) -> None:
        margins_BK = torch.linspace(-30, 30, 13, dtype=torch.float64).reshape(-1, 1)
        torch.testing.assert_close(kind(beta=0.1).build()(of_margins(margins_BK)), dpo(margins_BK, 0.1)[:, 0])

    def test_each_pair_stands_alone(self, kind: type) -> None:
        """K = 1 is the pairwise form: a row's loss is the mean of those of its pairs."""
        margins_BK, epsilon_BK = torch.randn(4, 3), 0.4 * torch.rand(4, 3)
        objective = kind(beta=0.2).build()
        alone = [objective(of_margins(margins_BK[:, k : k + 1], epsilon_BK[:, k : k + 1])) for k in range(3)]
        torch.testing.assert_close(objective(of_margins(margins_BK, epsilon_BK)), torch.stack(alone).mean(0))

    @given(margin=MARGIN, epsilon=EPSILON, beta=st.floats(0.01, 1))
    def test_decreasing_below_the_optimum(self, kind: type, margin: float, epsilon: float, beta: float) -> None:
        # logit(1 - e) for the conservative form; the robust one has no finite optimum, so this holds for it as well.
        optimum = math.log((1 - epsilon) / epsilon) if epsilon > 1e-12 else math.inf
        if beta * margin < min(optimum, 20) - 1e-3:
            assert gradient(kind(beta=beta).build(), margin, epsilon) < 0

    @given(margin=MARGIN, epsilon=EPSILON)
    def test_only_beta_times_the_margin_counts(self, kind: type, margin: float, epsilon: float) -> None:
        once, twice = kind(beta=0.2).build(), kind(beta=0.4).build()
        torch.testing.assert_close(loss(once, margin, epsilon), loss(twice, margin / 2, epsilon))
