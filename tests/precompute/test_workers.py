"""Pieces of work side by side: order, errors, threads, and what a broken-off loop leaves behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from precompute.workers import side_by_side


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items_whichever_is_done_first() -> None:
    def work(i: int) -> int:
        time.sleep(0.02 if i % 3 == 0 else 0.0)
        return i * i

    assert list(side_by_side(work, range(20))) == [i * i for i in range(20)]


def test_as_many_at_once_as_there_are_threads_and_each_with_its_share() -> None:
    meeting = threading.Barrier(3, timeout=20)  # broken unless three are at work at once

    def work(_: int) -> tuple[int, bool]:
        meeting.wait()
        return torch.get_num_threads(), torch.is_inference_mode_enabled()

    assert list(side_by_side(work, range(6))) == [(1, True)] * 6
    assert torch.get_num_threads() == 3 and not torch.is_inference_mode_enabled()


def test_one_after_the_other_where_the_device_is_no_cpu() -> None:
    me = threading.get_ident()
    assert list(side_by_side(lambda _: threading.get_ident(), range(3), "cuda")) == [me] * 3


def test_only_a_few_items_are_taken_ahead() -> None:
    taken: list[int] = []
    found = side_by_side(lambda i: i, (taken.append(i) or i for i in range(100)))
    assert next(found) == 0 and len(taken) <= 5
    found.close()
    assert torch.get_num_threads() == 3 and len(taken) <= 5


def test_what_work_raises_is_raised_and_the_rest_given_up() -> None:
    begun: list[int] = []

    def work(i: int) -> int:
        begun.append(i)
        if i == 2:
            raise ValueError("two")
        return i

    with pytest.raises(ValueError, match="two"):
        list(side_by_side(work, range(100)))
    assert len(begun) < 10 and torch.get_num_threads() == 3
