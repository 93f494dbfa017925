"""Methods and metrics that run as programs in an environment of their own."""
