"""A tests' script: a paper's linear protocol as a process of its own, which may kill itself.

`python linear_process.py FOLDER OUTPUT STEP`: checkpoints in FOLDER, the classifier into OUTPUT;
SIGKILL before STEP + 1, if that is reached.
"""

import os
import signal
import sys

import jax
import numpy as np
from flax import linen as nn

from simclr_jax import parallel
from simclr_jax.evaluate import published
from simclr_jax.evaluate.features import Features

CLASSES, COUNT, BATCH = 3, 64, 16
STEPS = 60


class Pixels(nn.Module):
    def __call__(self, images, train):
        return images.reshape(len(images), -1)


def main(folder: str, output: str, last: str) -> None:
    jax.config.update('jax_platforms', 'cpu')
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (COUNT, 1, 4, 4, 1), np.uint8)
    labels = random.integers(CLASSES, size=COUNT).astype(np.int32)
    features = Features(
        {'encoder': images.reshape(COUNT, -1) / np.float32(255)}, labels, np.arange(COUNT)
    )

    def batches(examples, start_step, total_steps):
        for step in range(start_step, total_steps):
            if step == int(last):
                os.kill(os.getpid(), signal.SIGKILL)
            chosen = np.random.default_rng(step).choice(examples, BATCH, replace=False)
            yield {'image': images[chosen], 'label': labels[chosen]}

    protocol = published.published_protocol(
        'byol', 'resnet50', epochs=STEPS * BATCH / COUNT, batch_size=BATCH, learning_rates=(1.0,)
    )
    trainer = published.LinearTrainer(
        Pixels(), {}, protocol, parallel.make_mesh(), CLASSES, folder=folder, save_every=5
    )
    with trainer.keep(features):
        trained = trainer.train(batches, np.arange(COUNT), 16, (1.0,))
    np.savez(output, **trained)


if __name__ == '__main__':
    main(*sys.argv[1:])
