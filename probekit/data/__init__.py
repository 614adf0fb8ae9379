"""Sequences, labels and splits: what goes in, before any model has seen it."""

from probekit.data.dataset import Dataset, as_dataset
from probekit.data.labels import Kind, LabelSet, Level
from probekit.data.readers import from_hf, read_csv
from probekit.data.splits import Split, drop_seen_prefixes, split_items

__all__ = [
    "Dataset",
    "Kind",
    "LabelSet",
    "Level",
    "Split",
    "as_dataset",
    "drop_seen_prefixes",
    "from_hf",
    "read_csv",
    "split_items",
]
