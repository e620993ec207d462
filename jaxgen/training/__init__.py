"""The training of any model: loop, run, checkpoints, logs, settings; `durability` survives faults. Knows no method."""
