"""Independent pieces of work side by side, each with its share of the processor's threads.

torch's own threads share out single operations. Wherever numpy has its turn they leave cores idle, and as they wait for
each other, another program on one core slows all of them down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

MOST_WORKERS = 4  # each holds what its piece of work needs in memory


def side_by_side(work: Callable[[T], R], items: Iterable[T], device: torch.device | str = "cpu") -> Iterator[R]:
    """work(item) of every item, in the order of the items; one after the other where `device` is no CPU.

    torch keeps no gradients in them. At most one result more than there are workers waits to be taken. What `work`
    raises is raised here, and what was not begun is given up.
    """
    threads = torch.get_num_threads()
    n = min(MOST_WORKERS, threads) if torch.device(device).type == "cpu" else 1
    if n == 1:
        yield from map(torch.inference_mode()(work), items)
        return
    share = threads // n
    with ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(share,)) as pool:
        torch.set_num_threads(share)
        try:
            yield from _in_order(pool, torch.inference_mode()(work), items, n)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)


def _in_order(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    begun: deque[Future[R]] = deque()
    for item in items:
        begun.append(pool.submit(work, item))
        if len(begun) > ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
