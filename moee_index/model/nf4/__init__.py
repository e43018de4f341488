"""4-bit matrices. Knows no checkpoint."""
