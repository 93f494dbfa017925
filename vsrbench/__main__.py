"""`python -m vsrbench`: the command line."""

from vsrbench.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
