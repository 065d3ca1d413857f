"""Figures: numbers in, a figure of the document out."""
