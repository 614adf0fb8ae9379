"""Sparse-autoencoder features: trained and loaded through SAELens, named, scored and compared with probes."""

from saes.features import SparseFeatures, encode
from saes.loading import load
from saes.training import train, train_many

__all__ = ["SparseFeatures", "encode", "load", "train", "train_many"]
