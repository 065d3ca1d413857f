"""What the plugins and the study cost, measured on this machine beside what else there is.

Everything is a ratio of times that take turns within one process: a machine's speed drifts, its ratios hold.
``plan`` says what is measured, ``measuring`` measures it unit by unit, ``under_way`` lets it go on after an interrupt.
``timing`` takes turns, ``record`` keeps what came of it, ``judging`` holds it to the ``targets``, ``check`` to what was
recorded before, and ``report`` shows it; the other modules measure.
"""
