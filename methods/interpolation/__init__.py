"""Interpolation kernels: the reference rows."""
