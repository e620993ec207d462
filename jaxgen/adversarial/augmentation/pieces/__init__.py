"""Augmentations by the names that `gan.augment` gives them, one a file."""
