"""The addresses: each takes a body apart, asks `answers`, and says which shape comes back."""
