"""One kind of figure a module: numbers in, an ``<svg>`` element out."""
