"""The command line of vsrbench, run from a checkout."""

from vsrbench.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
