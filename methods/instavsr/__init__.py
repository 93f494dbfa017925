"""InstaVSR: network, adapter, training."""
