"""Official weights: state dicts of other projects read, named and laid out as ours. One file a format."""
