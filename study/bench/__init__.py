"""What a training step, an importance pass and a plugin's state cost, compared with other libraries.

What is compared takes turns within one process, and a ratio is formed in each round: a machine's speed drifts.
"""
