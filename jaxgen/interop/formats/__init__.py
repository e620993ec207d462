"""Formats of official weights, one per file; each exports its `Format` as `FORMAT`."""
