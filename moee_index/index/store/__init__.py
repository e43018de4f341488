"""The files of an index directory, and nothing else."""
