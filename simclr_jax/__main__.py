"""`python -m simclr_jax`: what run.py does, where there is no clone of the repository."""

import sys

from simclr_jax.cli import main

if __name__ == '__main__':
    sys.exit(main())
