"""Sparse-autoencoder features: trained and loaded through SAELens, named, scored and compared with probes."""

from saes.comparing.comparison import Comparison, compare
from saes.comparing.sparse_probes import SparseProbes, sparse_probes
from saes.concept_bottleneck.fitting import bottleneck
from saes.concept_bottleneck.result import Bottleneck, Explanation
from saes.features import SparseFeatures, encode
from saes.floor import Floor, floor
from saes.health import Health, Spliced, health
from saes.loading import load
from saes.naming.encoders import sentence_encoder
from saes.naming.intervention import intervene
from saes.naming.language_model import LanguageModel
from saes.naming.name_features import name
from saes.naming.names import Check, Evidence, Name, Names
from saes.naming.vocabulary import Vocabulary
from saes.overlap import Overlap, Stability, overlap, stability
from saes.page.save import save_page
from saes.scoring.feature_scores import FeatureScores, score
from saes.scoring.reconstruction import Reconstruction, reconstruct
from saes.training import train, train_many

__all__ = [
    "Bottleneck",
    "Check",
    "Comparison",
    "Evidence",
    "Explanation",
    "FeatureScores",
    "Floor",
    "Health",
    "LanguageModel",
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
    "floor",
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
