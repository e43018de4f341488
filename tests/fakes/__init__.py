"""Encoders, tasks, checkpoints and faults that tests are made of."""
