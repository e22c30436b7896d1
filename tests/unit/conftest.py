"""Unit tests run on one torch thread: small tensors gain nothing from more, and other work shares the cores."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
