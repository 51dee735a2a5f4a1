"""The numbers of published recipes, transcribed from the papers and the original code.

Field by field, for each config and preset that ships; `peak` is the learning rate after scaling.
"""


def view(number: int, **fields) -> dict:
    return {f'augment.view{number}.{name}': value for name, value in fields.items()}


def views(**fields) -> dict:
    return view(1, **fields) | view(2, **fields)


def jitter(brightness: float, contrast: float, saturation: float, hue: float) -> dict:
    strengths = {'brightness': brightness, 'contrast': contrast, 'saturation': saturation}
    return views(**strengths, hue=hue)


IMAGENET = {
    'data.dataset': 'imagenet2012',
    'data.train_split': 'train',
    'data.image_size': 224,
    'data.eval_crop': 0.875,
    'model.encoder': 'resnet50',
    'model.stem': 'auto',
} | views(crop_aspect=(3 / 4, 4 / 3), flip_probability=0.5, grayscale_probability=0.2)
CIFAR = {
    'data.dataset': 'cifar10',
    'data.train_split': 'train',
    'data.image_size': 32,
    'data.eval_crop': 1.0,
    'model.encoder': 'resnet18',
    'model.stem': 'auto',
} | views(flip_probability=0.5, grayscale_probability=0.2, blur_probability=0.0)
TENSORFLOW = views(
    antialias=False, colour_mode='tensorflow', grayscale_first=False, blur_edges='zeros'
)
PIL = views(antialias=True, colour_mode='blend', blur_edges='extend')
# `Resize(256)` and `CenterCrop(224)`, or TensorFlow's decoded window, resized without antialiasing.
EVAL_PIL = {'data.eval_interpolation': 'bilinear', 'data.eval_antialias': True}
EVAL_TENSORFLOW = {'data.eval_interpolation': 'bicubic', 'data.eval_antialias': False}
RAW = {'data.mean': (0.0,), 'data.std': (1.0,)}
IMAGENET_MEAN = {'data.mean': (0.485, 0.456, 0.406), 'data.std': (0.229, 0.224, 0.225)}
CIFAR_MEAN = {'data.mean': (0.4914, 0.4822, 0.4465), 'data.std': (0.2470, 0.2435, 0.2616)}
BLUR_OF_BYOL = (
    views(blur_kernel_fraction=0.1, blur_sigma=(0.1, 2.0), jitter_probability=0.8)
    | view(1, blur_probability=1.0, solarize_probability=0.0)
    | view(2, blur_probability=0.1, solarize_probability=0.2, solarize_threshold=0.5)
)

# google-research/simclr: README, run.py, model_util.py, data_util.py.
SIMCLR = {
    'method': 'simclr',
    'data.drop_remainder': False,  # data.py: repeat before batch
    'simclr.output_dim': 128,
    'simclr.loss_scale': 2.0,
    'model.padding': 'simclr',
    'model.zero_init_last_scale': True,
    'optimizer.name': 'lars',
    'optimizer.momentum': 0.9,
    'optimizer.trust_coefficient': 1e-3,
    'optimizer.rate_inside_momentum': True,
    'optimizer.exclude_bias_and_norm': True,
    'optimizer.warmup_epochs': 10.0,
    'optimizer.schedule': 'cosine',
} | views(
    crop_area=(0.08, 1.0),
    crop_sampler='tensorflow',
    interpolation='bicubic',
    jitter_probability=0.8,
    solarize_probability=0.0,
)
SIMCLR |= TENSORFLOW | EVAL_TENSORFLOW
# The READMEs' commands and the defaults beside them, at 0075cc0 (be133b3 for CIFAR-10) and 383d414.
V1 = {
    'optimizer.weight_decay': 1e-6,
    'simclr.num_layers': 2,
    'optimizer.learning_rate_scaling': 'linear',
} | views(brightness_mode='additive')
V2 = {'optimizer.weight_decay': 1e-4, 'simclr.num_layers': 3}
V2 |= views(brightness_mode='multiplicative')
SIMCLR_IMAGENET_V1 = {'optimizer.learning_rate': 0.3}
SIMCLR_IMAGENET_V2 = {
    'optimizer.learning_rate': 0.075,
    'optimizer.learning_rate_scaling': 'sqrt',
}
SIMCLR_IMAGENET = {
    'batch_size': 4096,
    'epochs': 100.0,
    'peak': 4.8,
    'simclr.temperature': 0.1,
    'simclr.hidden_dim': 2048,
} | views(blur_probability=0.5, blur_kernel_fraction=0.1, blur_sigma=(0.1, 2.0))
SIMCLR_CIFAR = {
    'batch_size': 512,
    'epochs': 1000.0,
    'peak': 2.0,
    'simclr.temperature': 0.5,
    'simclr.hidden_dim': 512,
}

# deepmind-research/byol: configs/byol.py, utils/.
BYOL = {
    'method': 'byol',
    'byol.hidden_dim': 4096,
    'byol.output_dim': 256,
    'optimizer.name': 'lars',
    'optimizer.momentum': 0.9,
    'optimizer.trust_coefficient': 1e-3,
    'optimizer.rate_inside_momentum': False,
    'optimizer.exclude_bias_and_norm': True,
    'optimizer.warmup_epochs': 10.0,
    'optimizer.schedule': 'cosine',
    'model.zero_init_last_scale': False,  # the paper's; a ResNet-18 has no other in Haiku
} | jitter(0.4, 0.4, 0.2, 0.1)
BYOL_IMAGENET = {
    'batch_size': 4096,
    'data.drop_remainder': False,  # utils/dataset.py: repeat before batch
    'optimizer.learning_rate_scaling': 'linear',
    'model.padding': 'same',
} | views(
    crop_area=(0.08, 1.0),
    crop_sampler='byol',
    interpolation='bicubic',
    brightness_mode='additive',
)
BYOL_IMAGENET |= TENSORFLOW | EVAL_TENSORFLOW


def byol_imagenet(epochs: float, rate: float, decay: float, base_decay: float) -> dict:
    numbers = {'epochs': epochs, 'optimizer.learning_rate': rate, 'optimizer.weight_decay': decay}
    numbers |= {'byol.base_decay': base_decay, 'peak': rate * 16}
    return BYOL | IMAGENET | IMAGENET_MEAN | BLUR_OF_BYOL | BYOL_IMAGENET | numbers


# The rate of the original's Imagenette recipe; views, length and decay of solo-learn's byol.yaml.
BYOL_CIFAR = {
    'data.drop_remainder': True,
    'batch_size': 256,
    'epochs': 1000.0,
    'peak': 2.0,
    'optimizer.weight_decay': 1e-6,
    'byol.base_decay': 0.99,
}
ASYMMETRIC_CIFAR = PIL | view(1, solarize_probability=0.0) | view(2, solarize_probability=0.2)

# facebookresearch/moco: main_moco.py, README, moco/builder.py.
MOCO = {
    'method': 'moco',
    'batch_size': 256,
    'data.drop_remainder': True,  # `drop_last=True`
    'moco.output_dim': 128,
    'model.padding': 'torch',
    'model.zero_init_last_scale': False,
    'optimizer.name': 'sgd',
    'optimizer.momentum': 0.9,
    'optimizer.nesterov': False,
    'optimizer.weight_decay': 1e-4,
    'optimizer.exclude_bias_and_norm': False,
} | views(crop_area=(0.2, 1.0), crop_sampler='torchvision', solarize_probability=0.0)
MOCO |= PIL | views(interpolation='bilinear')
MOCO_IMAGENET = {
    'model.norm_scope': 'groups',  # 256 images on 8 GPUs, each with its own statistics
    'model.norm_group_size': 32,
    'moco.shuffle': True,
    **EVAL_PIL,
    'moco.queue_size': 65536,
    'moco.decay': 0.999,
    'optimizer.warmup_epochs': 0.0,
    'peak': 0.03,
}
MOCO_V1 = (
    {
        'epochs': 200.0,
        'moco.num_layers': 1,
        'moco.temperature': 0.07,
        'optimizer.schedule': 'steps',
        'optimizer.decay_epochs': (120.0, 160.0),
    }
    | jitter(0.4, 0.4, 0.4, 0.4)
    | views(jitter_probability=1.0, blur_probability=0.0, grayscale_first=True)
)
MOCO_V2 = (
    {'moco.num_layers': 2, 'moco.temperature': 0.2, 'optimizer.schedule': 'cosine'}
    | jitter(0.4, 0.4, 0.4, 0.1)
    | views(jitter_probability=0.8, grayscale_first=False)
)
MOCO_V2_IMAGENET = {'moco.hidden_dim': 2048} | views(blur_probability=0.5, blur_sigma=(0.1, 2.0))
# solo-learn's mocov2plus.yaml; the decay is Lightly's.
MOCO_V2_CIFAR = {
    'epochs': 1000.0,
    'peak': 0.3,
    'optimizer.warmup_epochs': 10.0,
    'moco.queue_size': 32768,
    'moco.decay': 0.99,
    'moco.hidden_dim': 512,
}

# facebookresearch/moco-v3: CONFIG.md, main_moco.py, moco/builder.py, moco/optimizer.py.
MOCO_V3 = {
    'method': 'moco_v3',
    'data.drop_remainder': True,  # `drop_last=True`
    'moco_v3.hidden_dim': 4096,
    'moco_v3.output_dim': 256,
    'model.padding': 'torch',
    'optimizer.name': 'lars',
    'optimizer.momentum': 0.9,
    'optimizer.rate_inside_momentum': False,
    'optimizer.exclude_bias_and_norm': True,
    'optimizer.learning_rate_scaling': 'linear',
    'optimizer.warmup_epochs': 10.0,
    'optimizer.schedule': 'cosine',
} | jitter(0.4, 0.4, 0.2, 0.1)


def moco_v3_imagenet(epochs: float, rate: float, decay: float, base_decay: float) -> dict:
    numbers = {'epochs': epochs, 'optimizer.learning_rate': rate, 'optimizer.weight_decay': decay}
    numbers |= {'moco_v3.base_decay': base_decay, 'moco_v3.temperature': 1.0, 'peak': rate * 16}
    numbers |= {'batch_size': 4096, 'optimizer.trust_coefficient': 1e-3}
    numbers |= views(crop_area=(0.2, 1.0), crop_sampler='torchvision', interpolation='bilinear')
    numbers |= PIL | EVAL_PIL | views(grayscale_first=False)
    heads = {'moco_v3.num_layers': 2, 'moco_v3.predictor_norm': False}
    return MOCO_V3 | IMAGENET | IMAGENET_MEAN | BLUR_OF_BYOL | heads | numbers


def moco_v3_vit(encoder: str) -> dict:
    return moco_v3_imagenet(300.0, 1.5e-4, 0.1, 0.99) | {
        'model.encoder': encoder,
        'model.pooling': 'token',
        'model.freeze_patch_projection': True,
        'moco_v3.temperature': 0.2,
        'moco_v3.num_layers': 3,
        'moco_v3.predictor_norm': True,
        'optimizer.name': 'adamw',
        'optimizer.b1': 0.9,
        'optimizer.b2': 0.999,
        'optimizer.warmup_epochs': 40.0,
        'optimizer.exclude_bias_and_norm': False,
        **views(crop_area=(0.08, 1.0)),
    }


# solo-learn's mocov3.yaml and asymmetric.yaml.
MOCO_V3_CIFAR = {
    'batch_size': 256,
    'epochs': 1000.0,
    'peak': 0.3,
    'optimizer.weight_decay': 1e-6,
    'optimizer.trust_coefficient': 0.02,
    'moco_v3.temperature': 0.2,
    'moco_v3.base_decay': 0.99,
}

IMAGENETTE = {
    'data.dataset': 'imagenette/160px-v2',
    'data.train_split': 'train',
    'data.image_size': 128,
    'batch_size': 256,
    'model.encoder': 'resnet18',
    'model.stem': 'auto',
    'model.zero_init_last_scale': False,
}
# deepmind-research/byol: README, "Setup for fast iteration".
BYOL_IMAGENETTE = views(crop_area=(0.08, 1.0), crop_sampler='byol', brightness_mode='additive') | {
    'epochs': 1000.0,
    'data.drop_remainder': False,
    'data.eval_crop': 128 / (128 + 32),
    'model.padding': 'same',
    'peak': 2.0,
    'optimizer.weight_decay': 1e-6,
    'byol.base_decay': 0.996,
}
# lightly: imagenette_benchmark.py, transforms/simclr_transform.py.
SIMCLR_IMAGENETTE = (
    {
        'method': 'simclr',
        'epochs': 800.0,
        'data.drop_remainder': True,  # `drop_last=True`
        'simclr.temperature': 0.5,
        'simclr.num_layers': 2,
        'simclr.hidden_dim': 512,
        'simclr.output_dim': 128,
        'simclr.loss_scale': 1.0,
        'model.padding': 'torch',
        'optimizer.name': 'sgd',
        'optimizer.momentum': 0.9,
        'optimizer.nesterov': False,
        'optimizer.weight_decay': 5e-4,
        'optimizer.exclude_bias_and_norm': False,
        'optimizer.warmup_epochs': 0.0,
        'optimizer.schedule': 'cosine',
        'peak': 0.06,
    }
    | jitter(0.4, 0.4, 0.4, 0.1)  # `cj_strength=0.5`
    | PIL
    | EVAL_PIL
    | {'data.eval_crop': 1.0, 'knn.k': 200, 'knn.temperature': 0.1}
    | views(crop_area=(0.08, 1.0), crop_sampler='torchvision', interpolation='bilinear')
    | views(jitter_probability=0.8, blur_probability=0.5, blur_sigma=(0.1, 2.0))
    | views(solarize_probability=0.0, grayscale_probability=0.2, flip_probability=0.5)
)
# solo-learn: scripts/pretrain/imagenet-100; rates are the originals'.
IMAGENET100 = {'data.dataset': 'imagenet100', 'model.encoder': 'resnet18'}
IMAGENET100 |= {'batch_size': 256, 'epochs': 400.0, 'data.drop_remainder': True}
SIMCLR_IMAGENET100 = {
    'simclr.temperature': 0.2,
    'simclr.num_layers': 2,
    'simclr.hidden_dim': 512,
    'optimizer.weight_decay': 1e-4,
    'peak': 1.2,
} | views(brightness_mode='multiplicative')
BYOL_IMAGENET100 = {'peak': 2.0, 'optimizer.weight_decay': 1e-6, 'byol.base_decay': 0.99}

# SimCLR v2, section 3, and the code's README: 6.4 = 0.1 sqrt(4096), warm-up over 5 % of 800 epochs.
SIMCLR_V2 = {
    'epochs': 800.0,
    'optimizer.learning_rate': 0.1,
    'optimizer.warmup_epochs': 40.0,
    'peak': 6.4,
    'simclr.eval_layer': 0,  # `--ft_proj_selector`, run.py's default; 1 in the 1 % command
}


def simclr_v2_imagenet(encoder: str, width: int, sk_ratio: float) -> dict:
    model = {'model.encoder': encoder, 'model.width': width, 'model.sk_ratio': sk_ratio}
    model |= {'simclr.hidden_dim': 2048 * width}
    numbers = V2 | jitter(0.8, 0.8, 0.8, 0.2) | SIMCLR_IMAGENET | SIMCLR_IMAGENET_V2 | SIMCLR_V2
    return SIMCLR | IMAGENET | RAW | numbers | model


def simclr_imagenet(version: dict) -> dict:
    return SIMCLR | IMAGENET | RAW | jitter(0.8, 0.8, 0.8, 0.2) | SIMCLR_IMAGENET | version


def simclr_cifar10(version: dict) -> dict:
    return SIMCLR | CIFAR | RAW | jitter(0.4, 0.4, 0.4, 0.1) | SIMCLR_CIFAR | version


# Fine-tuning, by the papers and their code; tests/test_finetune_recipes.py has the rates.
FINETUNE = {
    'method': 'finetune',
    'data.image_size': 224,
    'data.eval_crop': 0.875,
    'model.encoder': 'resnet50',
    'model.norm_scope': 'global',
    'finetune.trained': 'all',
    'finetune.labels': 'all',  # of the data set, which holds 1 % or 10 %
    'finetune.head_layers': 0,
    'finetune.layer_decay': 1.0,
    'finetune.label_smoothing': 0.0,
    'finetune.pooling': 'own',
    'optimizer.momentum': 0.9,
    'optimizer.weight_decay': 0.0,
    'optimizer.warmup_epochs': 0.0,
    'optimizer.min_learning_rate': 0.0,
    'optimizer.by_epoch': False,
    'optimizer.schedule': 'cosine',
    'augment.mixing.mixup_alpha': 0.0,
    'augment.mixing.cutmix_alpha': 0.0,
} | view(
    1,
    crop_area=(0.08, 1.0),
    crop_aspect=(3 / 4, 4 / 3),
    flip_probability=0.5,
    jitter_probability=0.0,
    grayscale_probability=0.0,
    blur_probability=0.0,
    solarize_probability=0.0,
    rand_augment='',
    erase_probability=0.0,
)
LABELS = {
    '1pct': 'imagenet2012_subset/1pct',
    '10pct': 'imagenet2012_subset/10pct',
    '100pct': 'imagenet2012',
}
TORCHVISION_CROP = view(
    1,
    crop_sampler='torchvision',
    interpolation='bilinear',
    antialias=True,
)


def finetune_simclr(labels: str, epochs: float) -> dict:
    """SimCLR, appendix B.5."""
    numbers = {'data.dataset': LABELS[labels], 'epochs': epochs, 'batch_size': 4096, 'peak': 0.8}
    numbers |= {'optimizer.name': 'sgd', 'optimizer.nesterov': True, 'model.padding': 'simclr'}
    numbers |= view(1, crop_sampler='tensorflow', interpolation='bicubic', antialias=False)
    numbers |= {'finetune.head_learning_rate': 0.0, 'data.drop_remainder': False}
    return FINETUNE | RAW | EVAL_TENSORFLOW | numbers


def finetune_simclr_v2(labels: str, epochs: float, head_layers: int) -> dict:
    """SimCLR, README of version 2: 0.16 = 0.005 sqrt(1024)."""
    numbers = {'epochs': epochs, 'batch_size': 1024, 'peak': 0.16, 'optimizer.name': 'lars'}
    numbers |= {'optimizer.trust_coefficient': 1e-3, 'optimizer.rate_inside_momentum': True}
    numbers |= {'finetune.head_layers': head_layers, 'finetune.head_init': 'zero'}
    return finetune_simclr(labels, epochs) | {'optimizer.nesterov': False} | numbers


def finetune_byol(labels: str, held_out: float) -> dict:
    """BYOL, appendix C.1."""
    numbers = {'data.dataset': LABELS[labels], 'batch_size': 1024, 'epochs': 50.0, 'peak': 0.02}
    numbers |= {'optimizer.name': 'sgd', 'optimizer.nesterov': True, 'model.padding': 'same'}
    numbers |= view(1, crop_sampler='byol', interpolation='bicubic', antialias=False)
    numbers |= {'finetune.head_learning_rate': 0.0, 'data.drop_remainder': False}
    numbers |= {'finetune.learning_rates': (0.01, 0.02, 0.05, 0.1, 0.005)}
    numbers |= {'finetune.held_out': held_out}
    return FINETUNE | IMAGENET_MEAN | EVAL_TENSORFLOW | numbers


def finetune_torch(labels: str, rate: float, head_rate: float, **schedule) -> dict:
    """VICReg's, Barlow Twins' and SwAV's: two rates, no decay, 20 epochs of batch 256."""
    numbers = {'data.dataset': LABELS[labels], 'batch_size': 256, 'epochs': 20.0, 'peak': rate}
    numbers |= {'optimizer.name': 'sgd', 'optimizer.nesterov': False, 'model.padding': 'torch'}
    numbers |= {'finetune.head_learning_rate': head_rate, 'finetune.head_init': 'normal'}
    numbers |= {f'optimizer.{name}': value for name, value in schedule.items()}
    return FINETUNE | IMAGENET_MEAN | EVAL_PIL | TORCHVISION_CROP | numbers


BY_EPOCH = {'schedule': 'cosine', 'by_epoch': True}  # CosineAnnealingLR, called once an epoch
MULTI_STEP = {'schedule': 'steps', 'decay_epochs': (12.0, 16.0), 'decay_factor': 0.2}


def finetune_vit(epochs: float, peak: float, end: float) -> dict:
    """MAE's FINETUNE.md and main_finetune.py, and DeiT's main.py."""
    numbers = {
        'data.dataset': 'imagenet2012',
        'data.drop_remainder': True,  # `drop_last=True`
        'data.eval_interpolation': 'bicubic',
        'data.eval_antialias': True,
        'model.encoder': 'vit_b16',
        'batch_size': 1024,
        'epochs': epochs,
        'peak': peak,
        'finetune.drop_path': 0.1,
        'finetune.label_smoothing': 0.1,
        'finetune.head_learning_rate': 0.0,
        'optimizer.name': 'adamw',
        'optimizer.b1': 0.9,
        'optimizer.b2': 0.999,
        'optimizer.weight_decay': 0.05,
        'optimizer.warmup_epochs': 5.0,
        'optimizer.min_learning_rate': end,
        'augment.mixing.mixup_alpha': 0.8,
        'augment.mixing.cutmix_alpha': 1.0,
        'augment.mixing.probability': 1.0,
        'augment.mixing.switch_probability': 0.5,
    } | view(
        1,
        crop_sampler='torchvision',
        interpolation='bicubic',
        antialias=True,
        rand_augment='rand-m9-mstd0.5-inc1',
        erase_probability=0.25,
        erase_mode='pixel',
        erase_count=1,
    )
    return FINETUNE | IMAGENET_MEAN | numbers


MAE = {'finetune.layer_decay': 0.65, 'finetune.pooling': 'patches'}
MAE |= {'finetune.head_init': 'trunc_normal'}
FINETUNE_IMAGENET = {
    'simclr_1pct': finetune_simclr('1pct', 60.0),
    'simclr_10pct': finetune_simclr('10pct', 30.0),
    'simclr_v2_1pct': finetune_simclr_v2('1pct', 60.0, 1),
    'simclr_v2_10pct': finetune_simclr_v2('10pct', 30.0, 1),
    'simclr_v2_100pct': finetune_simclr_v2('100pct', 30.0, 0),
    'byol_1pct': finetune_byol('1pct', 0.1),
    'byol_10pct': finetune_byol('10pct', 0.1),
    'byol_100pct': finetune_byol('100pct', 10_009 / 1_281_167),
    'vicreg_1pct': finetune_torch('1pct', 0.03, 0.08, **BY_EPOCH),
    'vicreg_10pct': finetune_torch('10pct', 0.01, 0.1, **BY_EPOCH),
    'barlow_1pct': finetune_torch('1pct', 0.002, 0.5, **MULTI_STEP),
    'swav_1pct': finetune_torch('1pct', 0.02, 5.0, **MULTI_STEP),
    'swav_10pct': finetune_torch('10pct', 0.01, 0.2, **MULTI_STEP),
    'moco_v3_vit_b': finetune_vit(150.0, 1e-3, 1e-5) | {'finetune.head_init': 'timm'},
    'mae_vit_b': finetune_vit(100.0, 2e-3, 1e-6) | MAE,
}
# The batch of SimCLR's appendix B.8.2; of B.5 optimizer and epochs. Rate, start and crop are ours.
FINETUNE_CIFAR = finetune_simclr('10pct', 30.0) | {
    'finetune.head_init': 'linear',
    'augment.view1.crop_area': (0.7, 1.0),
    'data.dataset': 'cifar10',
    'data.image_size': 32,
    'data.eval_crop': 1.0,
    'batch_size': 256,
    'peak': 0.02,
    'model.encoder': 'resnet18',
    'model.padding': 'torch',
}


def distill_imagenet(encoder: str, width: int, sk_ratio: float, temperature: float) -> dict:
    """SimCLR v2, section 3, and its notebook, `distillation_self_training.ipynb`."""
    model = {'model.encoder': encoder, 'model.width': width, 'model.sk_ratio': sk_ratio}
    fields = (
        SIMCLR
        | IMAGENET
        | RAW
        | {
            'method': 'distill',
            'batch_size': 4096,
            'epochs': 400.0,
            'peak': 6.4,  # 0.1 sqrt(4096): ours, that of pretraining
            'optimizer.weight_decay': 1e-4,
            'optimizer.warmup_epochs': 20.0,  # 5 %: ours, as in pretraining
            'distill.temperature': temperature,
            'distill.alpha': 1.0,
            'finetune.trained': 'all',
            'finetune.head_layers': 0,
            'finetune.head_init': 'normal',  # model_util.py: a standard deviation of 0.01
            'finetune.label_smoothing': 0.0,
        }
    )
    fields |= view(1, jitter_probability=0.0, grayscale_probability=0.0, blur_probability=0.0)
    others = ('simclr.', 'augment.view2.')  # of pretraining
    return {name: v for name, v in fields.items() if not name.startswith(others)} | model


RECIPES = {  # (config, preset) -> {field: value}
    ('distill_imagenet', 'r50_1x'): distill_imagenet('resnet50', 1, 0.0, 1.0),
    ('distill_imagenet', 'r50_1x_sk'): distill_imagenet('resnet50', 1, 0.0625, 1.0),
    ('distill_imagenet', 'r50_2x_sk'): distill_imagenet('resnet50', 2, 0.0625, 1.0),
    ('distill_imagenet', 'self_r50_1x'): distill_imagenet('resnet50', 1, 0.0, 0.1),
    ('distill_imagenet', 'self_r50_2x_sk'): distill_imagenet('resnet50', 2, 0.0625, 0.1),
    ('distill_imagenet', 'self_r152_3x_sk'): distill_imagenet('resnet152', 3, 0.0625, 0.1),
    **{('finetune_imagenet', preset): fields for preset, fields in FINETUNE_IMAGENET.items()},
    ('finetune_cifar10', ''): FINETUNE_CIFAR,
    ('simclr_v2_imagenet', 'r50_1x'): simclr_v2_imagenet('resnet50', 1, 0.0),
    ('simclr_v2_imagenet', 'r50_1x_sk'): simclr_v2_imagenet('resnet50', 1, 0.0625),
    ('simclr_v2_imagenet', 'r50_2x_sk'): simclr_v2_imagenet('resnet50', 2, 0.0625),
    ('simclr_v2_imagenet', 'r101_2x_sk'): simclr_v2_imagenet('resnet101', 2, 0.0625),
    ('simclr_v2_imagenet', 'r152_3x_sk'): simclr_v2_imagenet('resnet152', 3, 0.0625),
    ('simclr_imagenette', ''): IMAGENETTE | IMAGENET_MEAN | SIMCLR_IMAGENETTE,
    ('byol_imagenette', ''): BYOL | IMAGENETTE | IMAGENET_MEAN | BLUR_OF_BYOL | BYOL_IMAGENETTE,
    ('simclr_imagenet100', ''): (
        SIMCLR | IMAGENET | RAW | jitter(0.8, 0.8, 0.8, 0.2) | SIMCLR_IMAGENET
    )
    | IMAGENET100
    | SIMCLR_IMAGENET100,
    ('byol_imagenet100', ''): (BYOL | IMAGENET | IMAGENET_MEAN | BLUR_OF_BYOL | BYOL_IMAGENET)
    | IMAGENET100
    | BYOL_IMAGENET100,
    ('simclr_imagenet', 'v1'): simclr_imagenet(V1 | SIMCLR_IMAGENET_V1),
    ('simclr_imagenet', 'v2'): simclr_imagenet(V2 | SIMCLR_IMAGENET_V2),
    ('simclr_cifar10', 'v1'): simclr_cifar10(V1),
    ('simclr_cifar10', 'v2'): simclr_cifar10(V2),
    ('byol_imagenet', '40'): byol_imagenet(40.0, 0.45, 1e-6, 0.97),
    ('byol_imagenet', '100'): byol_imagenet(100.0, 0.45, 1e-6, 0.99),
    ('byol_imagenet', '300'): byol_imagenet(300.0, 0.3, 1e-6, 0.99),
    ('byol_imagenet', '1000'): byol_imagenet(1000.0, 0.2, 1.5e-6, 0.996),
    ('byol_cifar10', ''): BYOL | CIFAR | CIFAR_MEAN | ASYMMETRIC_CIFAR | BYOL_CIFAR,
    ('moco_v1_imagenet', ''): MOCO | IMAGENET | IMAGENET_MEAN | MOCO_IMAGENET | MOCO_V1,
    **{
        ('moco_v2_imagenet', epochs): (
            MOCO | IMAGENET | IMAGENET_MEAN | MOCO_IMAGENET | MOCO_V2 | MOCO_V2_IMAGENET
        )
        | {'epochs': float(epochs)}
        for epochs in ('200', '800')
    },
    ('moco_v2_cifar10', ''): MOCO | CIFAR | CIFAR_MEAN | MOCO_V2 | MOCO_V2_CIFAR,
    ('moco_v3_imagenet', 'r50_100'): moco_v3_imagenet(100.0, 0.6, 1e-6, 0.99),
    ('moco_v3_imagenet', 'r50_300'): moco_v3_imagenet(300.0, 0.3, 1e-6, 0.99),
    ('moco_v3_imagenet', 'r50_1000'): moco_v3_imagenet(1000.0, 0.3, 1.5e-6, 0.996),
    ('moco_v3_imagenet', 'vit_s'): moco_v3_vit('vit_s16'),
    ('moco_v3_imagenet', 'vit_b'): moco_v3_vit('vit_b16'),
    ('moco_v3_cifar10', ''): MOCO_V3 | CIFAR | CIFAR_MEAN | ASYMMETRIC_CIFAR | MOCO_V3_CIFAR,
}
