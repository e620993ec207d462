"""What training a denoiser needs: noising, weights, importance of times, augmentation."""
