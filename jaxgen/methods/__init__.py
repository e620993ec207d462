"""The methods: one file each, exporting `make(config, spec, env) -> GenerativeModel`, found by name."""
