"""`python -m migrate` is the command `kubevirt-migrate`."""

from migrate.cli import main

if __name__ == "__main__":
    main()
