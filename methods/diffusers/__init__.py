"""Stable Diffusion's x4 upscaler."""
