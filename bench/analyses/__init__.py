"""Analyses of the paper's claims, one module each: arrays in, a `Section` out."""
