"""Records on disk, what they add up to, comparisons, published numbers."""
