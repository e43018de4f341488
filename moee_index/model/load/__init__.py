"""From a checkpoint to a filled model."""
