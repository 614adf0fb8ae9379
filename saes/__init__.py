"""Sparse-autoencoder features: trained and loaded through SAELens, named, scored and compared with probes."""

from saes.dictionary import name_by_labels
from saes.features import SparseFeatures, encode
from saes.loading import load
from saes.names import Evidence, Name, Names
from saes.reconstruction import Reconstruction, reconstruct
from saes.scoring import FeatureScores, score
from saes.training import train, train_many

__all__ = [
    "Evidence",
    "FeatureScores",
    "Name",
    "Names",
    "Reconstruction",
    "SparseFeatures",
    "encode",
    "load",
    "name_by_labels",
    "reconstruct",
    "score",
    "train",
    "train_many",
]
