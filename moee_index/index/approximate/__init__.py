"""Candidates for a search that does not look at every row, and how many of the best they hold."""
