"""The bench: measures, outside baselines, and drivers that measure the product as users run it."""
