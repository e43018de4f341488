"""Texts of all clients into batches of one model thread."""
