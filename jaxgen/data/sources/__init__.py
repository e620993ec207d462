"""Sources of images, one module each, which exports `load(split, *, ...) -> Dataset` with options of its own."""
