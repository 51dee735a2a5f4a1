"""How often and how strongly pictures are mixed with each other, as data."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Mixing:
    """The distribution of mixup and cutmix (`mixing.py`); the defaults mix nothing.

    Raises `ValueError` for a value out of range.
    """

    # Of the beta distribution that the share of the picture itself is drawn from; 0: no mixup.
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0  # likewise of cutmix
    probability: float = 1.0  # of mixing a batch at all, in [0, 1]
    switch_probability: float = 0.5  # of cutmix rather than mixup, where there are both; in [0, 1]

    def __post_init__(self):
        for name in ('mixup_alpha', 'cutmix_alpha'):
            value = getattr(self, name)
            self._require(name, 0 <= value < math.inf, 'a number that is 0 or more')
        for name in ('probability', 'switch_probability'):
            self._require(name, 0 <= getattr(self, name) <= 1, 'a probability in [0, 1]')

    def _require(self, name: str, valid: bool, wanted: str):
        if not valid:
            raise ValueError(f'{name}={getattr(self, name)!r}: give {wanted}.')

    @property
    def mixes(self) -> bool:
        """Whether it ever mixes anything."""
        return self.probability > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)


NONE = Mixing()
# MAE's (`FINETUNE.md`, `main_finetune.py`) and DeiT's, which MoCo v3 fine-tunes with.
MAE_MIXING = Mixing(mixup_alpha=0.8, cutmix_alpha=1.0)
