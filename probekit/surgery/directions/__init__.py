"""Directions, and whether they can be trusted: found, erased, compared with random ones, written for other tools."""
