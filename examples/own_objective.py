"""A preference objective of your own: two classes in a file of yours, chosen by import path.

    PYTHONPATH=examples rosepo align --align.objective.type own_objective:Hinge --align.objective.margin 2

or in a recipe: `align: {objective: {type: "own_objective:Hinge", margin: 2}}`; in Python as below.
"""

import torch
from pydantic import Field
from torch import Tensor

import rosepo_ray as rosepo


class Hinge(rosepo.losses.ObjectiveSettings):
    """The settings. The docstring below a field is its help text; a wrong value is refused with a sentence."""

    needs = frozenset({"reference"})  # what it wants to know beside the policy's log-probabilities
    type: str
    margin: float = Field(1.0, gt=0)
    """By how many nats the chosen title should have gained on the rejected one."""

    def build(self) -> rosepo.losses.Objective:
        return HingeObjective(self)


class HingeObjective(rosepo.losses.Objective):
    """max(0, margin - D), where D says how much further than the reference the policy prefers the chosen title.

    Tensors are [B, R] with the chosen response first, or [B, K] with the rejected ones alone; rows may have fewer.
    """

    def forward(self, pairs: rosepo.losses.Pairs) -> Tensor:
        return pairs.rejected_mean_B(torch.relu(self.settings.margin - pairs.margins_BK()))


def main() -> None:
    # One row: chosen and rejected have -4 and -6 nats under the policy, -5 and -5.5 under the reference.
    pairs = rosepo.losses.Pairs(
        logps_BR=torch.tensor([[-4.0, -6.0]]),
        lengths_BR=torch.tensor([[3, 4]]),
        valid_BR=torch.tensor([[True, True]]),
        row_ids=["u1:7"],
        ref_logps_BR=torch.tensor([[-5.0, -5.5]]),
    )
    objective = Hinge(type="own_objective:Hinge", margin=2.0).build()
    print("D = (-4 + 5) - (-6 + 5.5) = 1.5, so the loss is 2 - 1.5 =", float(objective(pairs)))
    # With a dataset: rosepo.align(dataset, align={"objective": {"type": "own_objective:Hinge"}})
    # Its contract as tests: class TestHinge(rosepo_ray.testing.objective.ObjectiveContract): settings = Hinge(...)


if __name__ == "__main__":
    main()
