"""Flax linen networks and layers: no loss, no optimizer, no sampling."""
