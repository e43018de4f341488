"""Raw HS and RW of texts on disk, computed once."""
