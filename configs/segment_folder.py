"""What is at each pixel: probes of an encoder's maps, on your own pictures with masks.

    python run.py --config=configs/segment_folder.py --mode=segment --config.data.path=DIR \
        --encoder=runs/mine --workdir=runs/segments

DIR has train/, val/ and test/, each with images/ and masks/; a mask is a gray or palette PNG of its
picture's name whose values are the classes. Values that are no class are named, as
`--config.segment.ignore="(11,)"`. See docs/dense.md and docs/data.md.

The encoder stays as it is. Linear classifiers of each place of its maps are trained as in DINOv2:
batch normalization and a 1x1 convolution, AdamW at 1e-3 with a decay of 1e-4, a warm-up and a
linear fall, 16 crops a step of pictures half to twice as large, flipped, with other colours. DINOv2
trains for 40,000 steps on crops of 512 pixels; here they are 224, for 20 passes over the pictures,
so no published figure belongs to these numbers. Beside them are STEGO's probe (Adam at 5e-3, no
normalization) and retrieval as in Hummingbird (30 neighbours, temperature 0.02; 10,240 places are
remembered, a tenth of the original's smallest memory, so that it takes minutes without an
accelerator), and all of that for the untrained encoder and for raw pixels.

`segment_folder:fcn` trains the encoder as well, with the head of BYOL's appendix E.3: two 3x3
convolutions of 256 filters, the last stage's stride 1, SGD, the rate divided by ten after 70 % and
90 % of the steps. BYOL trains 30,000 steps on crops of 513 pixels and chooses the rate among five
from 1e-3 to 1e-1 on held-out pictures; here it is the one in the middle.
"""

from simclr_jax.config import AUTO_FIELDS, default

PRESETS = ('fcn',)
EPOCHS = 20.0


def get_config(preset=''):
    config = default()
    config.method = 'segment'
    # What they are below is for a TPU or a large GPU.
    config.auto = tuple(name for name in AUTO_FIELDS if name == 'model.dtype')
    config.batch_size = 16
    config.epochs = EPOCHS
    config.data.dataset = 'folder'
    config.data.image_size = 224
    config.data.drop_remainder = False
    config.model.encoder = 'resnet50'
    config.model.dtype = 'bfloat16'
    config.optimizer.learning_rate_scaling = 'none'
    config.segment.memory = 10_240
    config.log.every_steps = 20
    if preset == 'fcn':
        config.segment.trained = 'all'
        config.segment.dilated = 1
        config.optimizer.name = 'sgd'
        config.optimizer.learning_rate = 1e-2
        config.optimizer.warmup_epochs = 0.0
        config.optimizer.weight_decay = 1e-4
        config.optimizer.schedule = 'steps'
        config.optimizer.decay_epochs = (0.7 * EPOCHS, 0.9 * EPOCHS)
        return config
    config.optimizer.name = 'adamw'
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_epochs = EPOCHS * 1500 / 40_000
    config.optimizer.schedule = 'linear'
    config.optimizer.weight_decay = 1e-4
    config.optimizer.exclude_bias_and_norm = False
    return config
