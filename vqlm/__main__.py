"""`python -m vqlm`, the same as the command `vqlm`."""

from vqlm.scripts.commands import main

if __name__ == "__main__":
    main()
