"""Token ids in, HS and RW out. Knows no text."""
