"""For all unit tests, which stay under a minute together.

One torch thread: small tensors gain nothing from more, and other work shares the cores. Half of hypothesis's usual
number of examples, and no deadline for one, which a busy machine would miss.
"""

import hypothesis
import pytest

hypothesis.settings.register_profile("unit", max_examples=50, deadline=None)
hypothesis.settings.load_profile("unit")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
