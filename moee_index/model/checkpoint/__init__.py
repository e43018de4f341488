"""Files of a checkpoint as tensors. Builds no module."""
