"""Kernels for 4-bit matrices in C++: sources, how they are built, and how they are called."""
