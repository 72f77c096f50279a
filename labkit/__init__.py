"""The shared library of the course: a simulated shop, search, recommendation, training and evaluation.

Import the part you need: ``from labkit.rank import BM25``. Nothing heavy is imported until it is used.
"""
