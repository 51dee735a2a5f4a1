"""A tests' script: one process of several, or alone, that extracts features and runs both probes.

`python probes_process.py OUTPUT PORT COUNT NUMBER`: the devices of several processes take turns on
the mesh, as a slice of TPUs may have them.
"""

import json
import sys

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh
from sklearn.datasets import load_digits

from simclr_jax import parallel
from simclr_jax.evaluate.features import extract_features
from simclr_jax.evaluate.knn import knn_eval
from simclr_jax.evaluate.linear import linear_eval

BATCH = 64


class Pixels(nn.Module):
    def __call__(self, images, train):
        return images.reshape(len(images), -1)


def batches(images, labels, rows):
    for start in range(0, len(images), BATCH):
        index = start + rows
        mask = (index < len(images)).astype(np.float32)
        index = np.minimum(index, len(images) - 1)
        yield {
            'image': images[index][:, None],
            'index': index,
            'label': labels[index].astype(np.int32),
            'mask': mask,
        }


def main(output: str, port: str, count: str, number: str) -> None:
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', 8 // int(count))
    if int(count) > 1:
        jax.distributed.initialize(f'127.0.0.1:{port}', int(count), int(number))
    devices = np.array(jax.devices()).reshape(int(count), -1).T.ravel()
    mesh = Mesh(devices, (parallel.DATA_AXIS,), axis_types=(AxisType.Auto,))
    of_processes = [device.process_index for device in mesh.devices]
    assert of_processes == [i % int(count) for i in range(8)]
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels * 15).astype(np.uint8).reshape(-1, 8, 8, 1)
    parts = []
    for part in (slice(0, 900), slice(900, 1300)):
        rows = parallel.local_rows(BATCH, mesh)
        parts.append(
            extract_features(
                {'encoder': Pixels()},
                {'encoder': {}},
                batches(images[part], labels[part], rows),
                mesh,
                num_examples=len(images[part]),
                mean=(0.5,),
                std=(0.25,),
                raw_pixels=False,
            )
        )
    train, test = parts
    data = train.values['encoder'], train.labels, test.values['encoder'], test.labels
    options = {'num_classes': 10, 'labels_per_class': ('all', 10), 'draws': 1, 'mesh': mesh}
    result = {
        'knn': knn_eval(*data, **options),
        'linear_eval': linear_eval(*data, **options, l2_grid=(1e-3, 1e-2)),
    }
    np.savez(f'{output}.npz', *data)
    with open(f'{output}.json', 'w') as file:
        json.dump(result, file)


if __name__ == '__main__':
    main(*sys.argv[1:])
