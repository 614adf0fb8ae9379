"""How well each feature tells each label, and what the precise ones tell together."""
