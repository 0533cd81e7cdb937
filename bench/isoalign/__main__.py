"""`python -m isoalign` is `isoalign`."""

from isoalign.cli.main import main

if __name__ == "__main__":
    main()
