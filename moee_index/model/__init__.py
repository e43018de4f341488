"""Token ids in, HS and RW out. Text is turned into ids in `encode`."""
