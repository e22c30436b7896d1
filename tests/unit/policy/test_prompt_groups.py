"""Prompts that go together: all of them, once each, within every bound."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.config.policy import PretrainedPolicy, PromptSettings
from rosepo_ray.policy import store
from rosepo_ray.policy.model import Policy
from rosepo_ray.policy.prompt_groups import bytes_per_slot, together
from rosepo_ray.policy.segments import EncodedPrompt
from tests import tiny_models


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    base = tiny_models.save(tmp_path_factory.mktemp("base"), "llama", ["Toy Story", "Heat"])
    chosen = PretrainedPolicy(type="pretrained", model=str(base), lora=None)
    return store.build(chosen, PromptSettings(template="titles"), ["Toy Story", "Heat"], [1, 1], seed=1)


@given(
    lengths=st.lists(st.integers(1, 3000), max_size=25),
    most=st.integers(1, 8),
    tokens=st.integers(1, 9000),
    room=st.integers(0, 3000),
    beams=st.integers(1, 4),
)
def test_every_prompt_is_in_one_group_within_the_bounds(
    policy: Policy, lengths: list[int], most: int, tokens: int, room: int, beams: int
):
    prompts = [EncodedPrompt([0] * length) for length in lengths]
    groups = list(together(policy, prompts, most, tokens, room, 1, beams))
    assert sorted(index for group in groups for index in group) == list(range(len(prompts)))
    for group in groups:
        rows, width = len(group) * beams, max(lengths[index] for index in group)
        assert len(group) <= most
        if len(group) > 1:
            assert rows * width <= tokens
            assert rows * (width + room) * bytes_per_slot(policy) <= 1 << 20
    # None could have taken the next one's shortest prompt too.
    for group, after in pairwise(groups):
        rows, width = (len(group) + 1) * beams, lengths[after[0]]
        over = rows * width > tokens or rows * (width + room) * bytes_per_slot(policy) > 1 << 20
        assert len(group) == most or over
