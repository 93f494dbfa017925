"""Frames, clips and datasets; LQ from GT."""
