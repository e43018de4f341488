"""The HTTP side: who may ask, what a request may look like, and which answer goes where."""
