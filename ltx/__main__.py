"""`python -m ltx COMMAND …` is `ltx COMMAND …`."""

from ltx.cli.main import main

if __name__ == "__main__":
    main()
