"""What MoCo's detection/convert-pretrain-to-detectron2.py makes, stated here once more."""

import pickle

COUNTER = 'num_batches_tracked'


def converted(checkpoint):
    """Returns what MoCo's detection/convert-pretrain-to-detectron2.py pickles."""
    made = {}
    for key, value in checkpoint['state_dict'].items():
        if not key.startswith('module.encoder_q.'):
            continue
        key = key.replace('module.encoder_q.', '')
        if 'layer' not in key:
            key = 'stem.' + key
        for t in [1, 2, 3, 4]:
            key = key.replace(f'layer{t}', f'res{t + 1}')
        for t in [1, 2, 3]:
            key = key.replace(f'bn{t}', f'conv{t}.norm')
        key = key.replace('downsample.0', 'shortcut')
        made[key.replace('downsample.1', 'shortcut.norm')] = value.numpy()
    return {'model': made, '__author__': 'MOCO', 'matching_heuristics': True}


def unpickled(folder):
    # As detectron2's DetectionCheckpointer does it.
    return pickle.loads((folder / 'encoder.pkl').read_bytes(), encoding='latin1')
