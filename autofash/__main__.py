"""`python -m autofash`."""

from autofash.cli import main

main()
