"""What the plugins and the study cost, measured on this machine beside what else there is.

Everything is a ratio of times that take turns within one process: a machine's speed drifts, its ratios hold.
``timing`` takes turns, ``steps``, ``passes``, ``memory``, ``limit``, ``waiting`` and ``whole`` measure, ``record`` keeps
what came of it, ``targets`` and ``check`` judge, ``report`` shows.
"""
