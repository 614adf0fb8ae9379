"""The page of an SAE's features: search, names with their evidence, a card a feature."""
