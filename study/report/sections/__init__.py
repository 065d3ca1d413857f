"""Sections: the analysis in, a section out, or None if it is empty."""
