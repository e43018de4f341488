"""An index as one file for other programs."""
