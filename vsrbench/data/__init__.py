"""Frames, clips and data sets; LQ from GT."""
