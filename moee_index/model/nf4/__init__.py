"""4-bit matrices, wherever their weights come from."""
