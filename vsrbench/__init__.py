"""vsrbench: benchmark and evaluation harness for real-world video super-resolution."""

__version__ = "0.1.0"
