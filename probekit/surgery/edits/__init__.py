"""Edits of activations and of weights, how they are put on and taken off, and how the one becomes the other."""
