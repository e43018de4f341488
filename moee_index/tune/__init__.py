"""The weight of RW, and with judgements that of words too, chosen, and the metrics for it."""
