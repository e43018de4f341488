"""`python -m moee_index`: the same as the console script."""

from moee_index.cli import main

if __name__ == "__main__":
    main()
