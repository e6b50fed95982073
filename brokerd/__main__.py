"""`python -m brokerd` is the command line, for where no console script is installed."""

from brokerd.cli import main

main()
