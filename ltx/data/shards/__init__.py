"""Photographs in webdataset shards: made from files, and streamed for training and for explaining."""

from ltx.data.shards.listing import MANIFEST, Sample, Shard, counted, expand, is_shards, read_shard
from ltx.data.shards.module import ShardData
from ltx.data.shards.plan import Plan

__all__ = ["MANIFEST", "Plan", "Sample", "Shard", "ShardData", "counted", "expand", "is_shards", "read_shard"]
