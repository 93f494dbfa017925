"""The command line of vsrbench, run from a checkout."""

from vsrbench.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
