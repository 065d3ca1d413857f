"""One section of the report a module: findings in, a section out, or None where there is nothing to say."""
