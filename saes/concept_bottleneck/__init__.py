"""A classifier whose inputs are a few named features."""
