"""Reports from records. Nothing here trains."""
