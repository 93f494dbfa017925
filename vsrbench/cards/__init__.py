"""Declarations of methods and datasets, and their weights."""
