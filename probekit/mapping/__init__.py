"""Linear maps between models: fitted on paired activations, measured by retrieval, by probes carried across, and by perplexity."""

from __future__ import annotations

from probekit.mapping.alignment import paired_tokens
from probekit.mapping.fitting import fit
from probekit.mapping.linear_map import LinearMap
from probekit.mapping.maps import Maps
from probekit.mapping.patching import PatchedPerplexity, patched_perplexity
from probekit.mapping.probe_transfer import transfer
from probekit.mapping.transfer_result import Transfer

__all__ = [
    "LinearMap",
    "Maps",
    "PatchedPerplexity",
    "Transfer",
    "fit",
    "paired_tokens",
    "patched_perplexity",
    "transfer",
]
