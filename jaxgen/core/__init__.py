"""The contract, and what every part of jaxgen may use: builders, wrappers, keys, trees, images, configuration."""
