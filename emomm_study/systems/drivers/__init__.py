"""Systems that pin an old transformers: each is a script in an environment of its own.

The scripts here import nothing of the project but ``serving`` and ``decoders``, which lie beside
them.
"""
