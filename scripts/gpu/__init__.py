"""Everything that needs a GPU, measured in one go: see scripts/gpu_check.py."""
