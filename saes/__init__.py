"""Sparse-autoencoder features: trained and loaded through SAELens, named, scored and compared with probes."""
