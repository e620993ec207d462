"""Pure loss functions of arrays, independent of any network; one value per example, unless a loss says otherwise."""
