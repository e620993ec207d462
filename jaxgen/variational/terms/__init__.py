"""Terms that are added to the loss of a variational autoencoder; one file each, found by name."""
