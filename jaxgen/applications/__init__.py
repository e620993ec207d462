"""Uses of a finished model: pure functions over the functions of the contract."""
