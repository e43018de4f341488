"""Documents in, a segment out."""
