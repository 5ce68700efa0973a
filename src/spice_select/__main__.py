"""`python -m spice_select` is the command line."""

from spice_select.cli import main

main()
