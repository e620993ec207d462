"""Terms that are added to the losses in adversarial training; one file each, found by name."""
