"""Declarations of methods and data sets, and their weights."""
