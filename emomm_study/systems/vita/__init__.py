"""VITA-1.5 in transformers' terms: configuration, the three parts of the model, and its inputs.

Written from facts that the published weights fix: names and shapes of tensors, order of operations,
constants. ``tests/study/test_vita_port.py`` holds every part against what the authors' code computes.
"""
