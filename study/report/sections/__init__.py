"""One section of the report a module: analysis in, a section out, or None where there is nothing to say."""
