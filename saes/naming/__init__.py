"""Names for features: sources propose them, and rows that made none of them judge."""
