"""From a config section to an Optax optimizer."""
