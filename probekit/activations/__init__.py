"""Activations: captured into a store, given as arrays, or summed while they stream by."""

from probekit.activations.capture import capture
from probekit.activations.moments import Moments, capture_moments, moments_of
from probekit.activations.prefix import prefix_hashes
from probekit.activations.source import Activations, ArrayActivations
from probekit.activations.store import ActivationStore

__all__ = [
    "ActivationStore",
    "Activations",
    "ArrayActivations",
    "Moments",
    "capture",
    "capture_moments",
    "moments_of",
    "prefix_hashes",
]
