"""One folder per method: cards (TOML), adapter, and the network where it is ours."""
