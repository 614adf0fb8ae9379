"""Sparse-autoencoder features: trained and loaded through SAELens, named, scored and compared with probes."""

from saes.features import SparseFeatures, encode
from saes.loading import load
from saes.scoring import FeatureScores, score
from saes.training import train, train_many

__all__ = ["FeatureScores", "SparseFeatures", "encode", "load", "score", "train", "train_many"]
