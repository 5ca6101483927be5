"""Vectors in, sparse code out: dictionaries and their training. Knows no language model, hook, run folder or file tree."""
