"""Pure loss functions of arrays; no network in sight. A loss has one value an example, unless it says otherwise."""
