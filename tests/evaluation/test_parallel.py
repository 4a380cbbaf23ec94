"""Chunks over threads give what one thread gives, and leave torch as it was."""

from __future__ import annotations

import pytest
import torch

from anyres.evaluation.parallel import map_chunks

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_order_and_threads() -> None:
    seen = map_chunks(lambda k: (k, torch.get_num_threads()), range(7), CPU)
    assert seen == [(k, 1) for k in range(7)]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_errors_pass_and_threads_come_back() -> None:
    with pytest.raises(ZeroDivisionError):
        map_chunks(lambda k: 1 / k, [1.0, 0.0], CPU)
    assert torch.get_num_threads() == 2
