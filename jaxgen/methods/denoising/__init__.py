"""Models that learn to remove noise."""
