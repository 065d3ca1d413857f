"""``clreg-study``: the commands."""
