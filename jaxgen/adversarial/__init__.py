"""Pieces of adversarial training: the builder, the players, terms added to their losses, augmentation."""
