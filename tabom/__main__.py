"""Run the command line with ``python -m tabom``."""

from tabom.cli.main import main

main()
