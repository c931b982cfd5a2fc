"""`python -m certtrain` equals the console script."""

from certtrain.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
