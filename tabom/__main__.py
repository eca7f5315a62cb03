"""Run the command line with ``python -m tabom``."""

from tabom.cli import main

main()
