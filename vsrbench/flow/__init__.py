"""Optical flow: estimators, warping, masks."""
