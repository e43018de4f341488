"""The weight of RW, chosen with or without judgements, and the metrics for it."""
