"""`python -m interp`, and `torchrun ... -m interp`: the console script `interp` by another name."""

from interp.cli import main

if __name__ == "__main__":
    main()
