"""Figures: numbers in, an ``<svg>`` element out."""
