"""The command from this checkout, whatever is installed."""

from perdure.api.cli import main

if __name__ == "__main__":
    main()
