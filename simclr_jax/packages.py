"""What to say where a package is missing: an encoder can be used without those for pretraining.

`pip install` brings all of them; README.md has the command for an installation without TensorFlow.
"""

import platform
import sys

_X86_LINUX = (sys.platform, platform.machine()) == ('linux', 'x86_64')
# What pretraining and evaluation need, and loading, embedding and exporting do not (but for
# scikit-learn, which looks for clusters of an embedding): what each is imported as, and what
# installs it.
FOR_TRAINING = {
    'array_record': 'array_record',
    'importlib_resources': 'importlib_resources',
    'sklearn': 'scikit-learn',
    'tensorboard': 'tensorboard',
    'tensorflow': 'tensorflow-cpu' if _X86_LINUX else 'tensorflow',
    'tensorflow_datasets': 'tensorflow-datasets',
}


def explain(error: ModuleNotFoundError) -> str | None:
    """Returns what is missing and what installs it; None where it is none of `FOR_TRAINING`."""
    name = (error.name or '').partition('.')[0]
    if name not in FOR_TRAINING:
        return None
    return (
        f'{FOR_TRAINING[name]} is needed here and is not installed; all that pretraining and '
        f'evaluation need: pip install {" ".join(FOR_TRAINING.values())}'
    )
