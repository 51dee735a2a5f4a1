"""Pretrains and evaluates image encoders, and makes them useful: `--help` says how.

python run.py --config=configs/simclr_digits.py
python run.py --config=configs/simclr_imagenet.py --workdir=gs://bucket/run1
python run.py --config=configs/simclr_digits.py --config.optimizer.learning_rate=0.2
python run.py --mode=linear_eval --workdir=runs/simclr_digits
"""

import sys

from simclr_jax.cli import main

if __name__ == '__main__':
    sys.exit(main())
