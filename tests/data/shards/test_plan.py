"""The order of samples in shards: each once per epoch for any ranks and readers, resumable at any micro-batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from ltx.data.shards.plan import Plan, buffered_shuffle

COUNTS = [3, 5, 1, 4, 6, 2, 4, 3]


def shown(plan: Plan, rank: int, batches: int, start: int = 0) -> list[tuple[int, int]]:
    """(shard, sample) at each position of a rank's micro-batches."""
    readers = {}
    for reader in range(min(plan.readers, batches - start)):

        def places(first: int = start + reader) -> Iterator[tuple[int, int]]:
            for _, portion, past in plan.orders(rank, first):
                read = [(p.shard, p.first + i) for p in portion.parts for i in range(p.count)]
                yield from (read[place] for place in portion.order[past:])

        readers[reader] = places()
    return [next(readers[(t - start) % plan.readers]) for t in range(start, batches) for _ in range(plan.batch_size)]


@pytest.mark.parametrize(("ranks", "readers", "batch"), [(1, 1, 4), (2, 1, 2), (4, 2, 3), (3, 2, 1), (8, 1, 5)])
def test_each_sample_is_shown_once_per_epoch(ranks: int, readers: int, batch: int) -> None:
    plan = Plan(COUNTS, batch, ranks, readers, buffer=3, seed=1)
    micro_batches = 2 * 28 // (batch * ranks) + 1
    by_rank = [shown(plan, rank, micro_batches) for rank in range(ranks)]
    places = [sample for t in range(micro_batches) for own in by_rank for sample in own[t * batch : (t + 1) * batch]]
    every = {(shard, sample) for shard, count in enumerate(COUNTS) for sample in range(count)}
    first, second = places[:28], places[28:56]
    assert Counter(first) == Counter(every)
    assert Counter(second) == Counter(every)
    assert first != second


@pytest.mark.parametrize("start", [1, 2, 5, 9])
def test_a_resumed_plan_is_the_remainder(start: int) -> None:
    plan = Plan(COUNTS, 3, ranks=2, readers=2, buffer=3, seed=1)
    for rank in range(2):
        assert shown(plan, rank, 14, start) == shown(plan, rank, 14)[start * 3 :]


def test_a_reader_opens_few_shards_twice() -> None:
    plan = Plan([10] * 16, 1, ranks=4, readers=2, buffer=1, seed=0)
    opened = [part.shard for lane in range(8) for part in plan.portion(0, lane).parts]
    assert len(opened) == 16, "equal shards that divide evenly are read by one reader each"


def test_buffered_shuffle_is_a_permutation_within_its_buffer() -> None:
    order = buffered_shuffle(200, 10, np.random.default_rng(0))
    assert sorted(order) == list(range(200))
    assert (order - np.arange(200)).max() <= 9
    assert (order != np.arange(200)).mean() > 0.8
    assert buffered_shuffle(5, 1, np.random.default_rng(0)).tolist() == list(range(5))
    assert buffered_shuffle(0, 9, np.random.default_rng(0)).tolist() == []
