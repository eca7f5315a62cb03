"""The one command line. Importing it takes no time; :mod:`tabom.cli.main` imports what a verb needs."""
