"""From records to what people read. Nothing in here trains."""
