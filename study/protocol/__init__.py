"""Protocols: what one experiment is, as data."""
