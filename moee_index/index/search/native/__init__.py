"""What a search needs compiled: bounds by leading components, at the speed of memory."""
