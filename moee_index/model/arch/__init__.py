"""Which module of a model is what: routers, experts, what becomes 4-bit."""
