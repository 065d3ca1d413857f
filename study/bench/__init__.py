"""What a training step, an importance pass and a plugin's state cost, compared with other libraries.

``plan`` lists what is measured on which device, ``step``, ``pass_cost``, ``product_rate`` and ``memory`` measure it,
``record`` keeps it and ``report`` writes the page. Whatever is compared takes turns within one process, and a ratio is
formed in each round: the speed of a machine drifts, the ratios hold.
"""
