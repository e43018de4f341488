"""Token ids in, HS and RW out. Text is turned into ids in `encode`."""

from moee_index.backends import load_torch

# Before any module of this room imports it in its own way.
load_torch()
