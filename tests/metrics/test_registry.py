"""What holds for every metric: attributes, an empty state, batches, and ranks."""

import json
import math

import pytest
import torch
from torch import distributed, multiprocessing

from ltx.metrics.localisation import MeanIntersectionOverUnion, PointingGame
from ltx.metrics.ltx_protocol import Deletion
from ltx.metrics.per_image import PerImageMetric
from ltx.metrics.perturbation import Prediction
from ltx.metrics.protocol import Settings
from ltx.metrics.registry import PROTOCOLS


def every_metric():
    protocols = [kind(Settings(second=object())) for kind in PROTOCOLS.values()]
    return [(protocol, metric) for protocol in protocols for metric in protocol.metrics()]


@pytest.mark.parametrize(("protocol", "metric"), every_metric(), ids=lambda x: getattr(x, "key", ""))
def test_metadata_is_complete(protocol, metric):
    assert isinstance(metric, PerImageMetric)
    assert metric.protocol == protocol.name
    assert type(metric).higher_is_better in (True, False)
    assert all(isinstance(getattr(type(metric), name), str) for name in ("name", "meaning", "citation"))
    assert type(metric).update.__doc__
    assert metric.all_rows().shape == (0, metric.columns)


def test_names_are_unique():
    keys = [metric.key for _, metric in every_metric()]
    assert len(set(keys)) == len(keys)


def test_an_empty_metric_returns_nan():
    assert math.isnan(Deletion().compute())


def prediction(values):
    return Prediction(torch.as_tensor(values), torch.as_tensor(values) > 0.5)


def test_batches_accumulate_and_reset_clears_them():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(7, 10, generator=generator)
    whole, parts = Deletion(), Deletion()
    whole.update(highest=prediction(values))
    for part in values.split(3):
        parts.update(highest=prediction(part))
    assert torch.equal(whole.compute(), parts.compute())
    parts.reset()
    assert len(parts.all_rows()) == 0


def shares(rank):
    """3 images on rank 0 and 2 on rank 1; pooled sums and class means differ from means over ranks."""
    generator = torch.Generator().manual_seed(0)
    rows = slice(0, 3) if rank == 0 else slice(3, 5)
    maps = torch.rand(5, 1, 6, 6, generator=generator)
    objects = torch.rand(5, 1, 6, 6, generator=generator) < torch.tensor([0.1, 0.5, 0.9, 0.2, 0.3]).view(5, 1, 1, 1)
    values = torch.rand(5, 10, generator=generator)
    return maps[rows], objects[rows], values[rows], torch.tensor([4, 4, 4, 4, 8])[rows]


def add(metrics, share):
    maps, objects, values, targets = share
    metrics[0].update(highest=prediction(values))
    metrics[1].update(maps=maps, objects=objects)
    metrics[2].update(maps=maps, near_objects=objects, targets=targets)


def on_a_rank(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    scores = []
    for parts_of_ranks in ([[0], [1]], [[0, 1], []]):  # uneven shares; then one rank without images
        metrics = [Deletion(), MeanIntersectionOverUnion(), PointingGame()]
        for part in parts_of_ranks[rank]:
            add(metrics, shares(part))
        scores.append([float(metric.compute()) for metric in metrics])
        assert sum(len(metric.all_rows()) for metric in metrics[:1]) == sum(
            (3, 2)[part] for part in parts_of_ranks[rank]
        )
    distributed.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(scores))


def test_two_ranks_give_the_result_of_one(tmp_path):
    alone = [Deletion(), MeanIntersectionOverUnion(), PointingGame()]
    for rank in range(2):
        add(alone, shares(rank))
    expected = [float(metric.compute()) for metric in alone]
    # A process that is forked next to running threads may hang.
    multiprocessing.start_processes(on_a_rank, args=(tmp_path,), nprocs=2, start_method="spawn")
    for rank in range(2):
        for scores in json.loads((tmp_path / f"{rank}.json").read_text()):
            assert scores == pytest.approx(expected)
