"""The public checkpoints of other methods: a row each of what is unwrapped, dropped and assumed.

Inside each is an encoder in torchvision's or timm's layout. What its keys and shapes do not say,
such as how many heads a ViT has, is here.
"""

import dataclasses
from collections.abc import Iterable, Mapping

# Where training scripts put a state dict; '' is the file itself.
_WRAPPERS = ('state_dict', 'model', 'model_state_dict', 'model_state', '')


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One method's files.

    Attributes:
      name: of the layout.
      inside: keys of the file that may hold the state dict; '' is the file itself.
      prefixes: of the encoder's keys: one of them, in all.
      marks: beginnings of keys by which it is known; one is enough, '' takes any.
      drops: beginnings of keys that are not the encoder's.
      heads: beginnings of the encoder's own keys that are a projection head or a classifier.
      interpolation: of its evaluation, after which pictures are antialiased and cut to 87.5%.
      num_heads: of a ViT, by its width, where it is not a head for every 64 features.
    """

    name: str
    inside: tuple[str, ...] = _WRAPPERS
    prefixes: tuple[str, ...] = ('',)
    marks: tuple[str, ...] = ('',)
    drops: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    interpolation: str = 'bilinear'
    num_heads: Mapping[int, int] = dataclasses.field(default_factory=dict)


CHECKPOINTS = (
    Checkpoint(  # facebookresearch/moco `main_moco.py`
        'MoCo v1, v2',
        prefixes=('module.encoder_q.', 'encoder_q.'),
        marks=('module.encoder_q.', 'encoder_q.'),
        drops=('module.encoder_k.', 'module.queue', 'encoder_k.', 'queue'),
        heads=('fc.',),
    ),
    Checkpoint(  # facebookresearch/moco-v3 `main_moco.py`, `vits.py`
        'MoCo v3',
        prefixes=('module.base_encoder.', 'base_encoder.'),
        marks=('module.base_encoder.', 'base_encoder.'),
        drops=('module.momentum_encoder.', 'module.predictor.', 'momentum_encoder.', 'predictor.'),
        heads=('fc.', 'head.'),
        num_heads={384: 12},
    ),
    Checkpoint(  # facebookresearch/simsiam `main_simsiam.py`
        'SimSiam',
        prefixes=('module.encoder.',),
        marks=('module.encoder.conv1.',),
        drops=('module.predictor.',),
        heads=('fc.',),
    ),
    Checkpoint(  # facebookresearch/swav `src/resnet50.py`, which pads by 1, then by 2: by 3 in all
        'SwAV',
        prefixes=('module.', ''),
        marks=('module.prototypes', 'prototypes', 'module.projection_head.', 'projection_head.'),
        drops=('module.prototypes', 'module.projection_head.', 'prototypes', 'projection_head.'),
    ),
    Checkpoint(  # facebookresearch/barlowtwins `main.py`
        'Barlow Twins',
        inside=('model',),
        prefixes=('module.backbone.',),
        marks=('module.bn.',),
        drops=('module.projector.', 'module.bn.'),
        heads=('fc.',),
    ),
    Checkpoint(  # facebookresearch/vicreg `main_vicreg.py`
        'VICReg',
        inside=('model',),
        prefixes=('module.backbone.',),
        marks=('module.backbone.',),
        drops=('module.projector.',),
        heads=('fc.',),
    ),
    Checkpoint(  # facebookresearch/dino `main_dino.py`; its evaluation takes the teacher
        'DINO',
        inside=('teacher',),
        prefixes=('backbone.', 'module.backbone.'),
        marks=('backbone.', 'module.backbone.'),
        drops=('head.', 'module.head.'),
        heads=('fc.', 'head.'),
        interpolation='bicubic',
    ),
    Checkpoint(  # facebookresearch/mae `models_mae.py`
        'MAE',
        marks=('mask_token', 'decoder_embed.'),
        drops=('mask_token', 'decoder_'),
        interpolation='bicubic',
    ),
    # A state dict by itself, or of `DataParallel`: whatever else is in it is the encoder's.
    Checkpoint('', prefixes=('module.', '')),
)
NAMES = [row.name for row in CHECKPOINTS if row.name]


def match(keys: Iterable[str], row: Checkpoint) -> str | None:
    """Returns the prefix of the encoder's keys if these are the keys of the row, None if not."""
    keys = list(keys)
    if not any(key.startswith(row.marks) for key in keys):
        return None
    own = [key for key in keys if not key.startswith(row.drops)] if row.drops else keys
    for prefix in row.prefixes:
        if own and all(key.startswith(prefix) for key in own):
            return prefix
    return None


def dropped(keys: Iterable[str], beginnings: Iterable[str]) -> list[str]:
    """Returns the beginnings that are those of some of the keys."""
    keys = list(keys)
    return [beginning for beginning in beginnings if any(k.startswith(beginning) for k in keys)]
