"""What the plugins and the study cost, measured on this machine beside what else there is.

Everything is a ratio of times that take turns within one process: a machine's speed drifts, its ratios hold.
``timing`` takes turns, ``record`` keeps what came of it, ``targets`` and ``check`` judge it, ``report`` shows it; the
other modules measure.
"""
