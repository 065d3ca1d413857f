"""Every fault that a study meets, done to real processes and files, counted, and what was lost: nothing, or by name."""
