"""Programs for those who develop vsrbench; none of it is part of the package."""
