"""`python -m convforge`: the command."""

from .cli import main

main()
