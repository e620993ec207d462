"""Execution of a model's pure functions on many devices: by a mesh (the main path) or by pmap."""
