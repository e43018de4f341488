"""One forward pass: token ids in, HS and RW out."""

from moee_index.backends import load_transformers

# Before any module of this room imports it in its own way.
load_transformers()
