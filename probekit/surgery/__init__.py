"""Model surgery: edits of activations and weights along directions, measured against random ones."""
