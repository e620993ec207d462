"""How the pure functions of a model run on many devices: by a mesh (the main path) or by pmap."""
