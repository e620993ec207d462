"""Survival of faults: damaged files, full disks, hangs, signals, loss spikes. Imports nothing else of `training`."""
