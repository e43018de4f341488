"""One forward pass: token ids in, HS and RW out."""
