"""Training of denoisers: noising, weights, importance sampling of times, augmentation."""
