"""`python -m bench` is `isoalign`."""

from bench.cli import main

main()
