"""Sparse-autoencoder features: trained and loaded through SAELens, named, scored and compared with probes."""

from saes.bottleneck import bottleneck
from saes.bottleneck_result import Bottleneck, Explanation
from saes.comparison import Comparison, compare
from saes.encoders import sentence_encoder
from saes.features import SparseFeatures, encode
from saes.health import Health, Spliced, health
from saes.intervention import intervene
from saes.loading import load
from saes.names import Check, Evidence, Name, Names
from saes.naming import name
from saes.overlap import Overlap, Stability, overlap, stability
from saes.page import save_page
from saes.reconstruction import Reconstruction, reconstruct
from saes.scoring import FeatureScores, score
from saes.sparse_probes import SparseProbes, sparse_probes
from saes.training import train, train_many
from saes.vocabulary import Vocabulary

__all__ = [
    "Bottleneck",
    "Check",
    "Comparison",
    "Evidence",
    "Explanation",
    "FeatureScores",
    "Health",
    "Name",
    "Names",
    "Overlap",
    "Reconstruction",
    "SparseFeatures",
    "SparseProbes",
    "Spliced",
    "Stability",
    "Vocabulary",
    "bottleneck",
    "compare",
    "encode",
    "health",
    "intervene",
    "load",
    "name",
    "overlap",
    "reconstruct",
    "save_page",
    "score",
    "sentence_encoder",
    "sparse_probes",
    "stability",
    "train",
    "train_many",
]
