"""Activations: captured into a store, given as arrays, or summed while they stream by."""
