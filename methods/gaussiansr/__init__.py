"""GaussianSR."""
