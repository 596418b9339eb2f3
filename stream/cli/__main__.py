"""``python -m stream.cli`` is ``radar``."""

from stream.cli import main

if __name__ == "__main__":
    main()
