"""``python -m study``: the same as ``clreg-study``."""

from study.cli.app import main

if __name__ == "__main__":
    main()
