"""Run the command line: ``python -m whet``."""

from whet.tools.cli import main

if __name__ == "__main__":
    main()
