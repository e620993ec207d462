"""Official weights: state dicts of other projects read, renamed and laid out as ours."""
