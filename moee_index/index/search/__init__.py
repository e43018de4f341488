"""Queries in, rows and scores out."""
