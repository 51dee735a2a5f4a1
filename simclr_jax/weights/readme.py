"""What README.md beside an export says: how it is loaded, and what becomes of a picture."""

import numpy as np

from simclr_jax.weights import formats, torch_layout
from simclr_jax.weights.description import Preprocess, Weights


def readme(weights: Weights, name: str, folder: str, proof: str) -> str:
    """Returns what README.md beside an export says.

    Args:
      weights: what was exported.
      name: of the format.
      folder: the folder's name.
      proof: what the comparison with the library found, or why there was none.
    """
    module, preprocess = formats.module_of(name), weights.preprocess
    if module.INPUT == 'uint8':
        shape = f'uint8 [n, {preprocess.size}, {preprocess.size}, {preprocess.channels}]'
    elif module.INPUT == 'nhwc':
        shape = f'float32 [n, {preprocess.size}, {preprocess.size}, {preprocess.channels}]'
    else:
        shape = f'float32 [n, {preprocess.channels}, {preprocess.size}, {preprocess.size}]'
    what, result = 'classifier' if weights.classifier else 'encoder', result_of(weights)
    article = 'A' if weights.classifier else 'An'
    blocks = [
        f'# {article} {what} for {name}',
        f'{_what(weights)} {module.FILES}',
        'Load it, from the folder that this one is in:',
        _code(module.lines(weights, folder)),
        f'It takes {shape} and gives {result}, float32 [n, {dim_of(weights)}]. From a picture:',
        _code(
            [
                'import numpy',
                'import PIL.Image',
                '',
                "picture = PIL.Image.open('picture.jpg')",
                *[line.replace('features = ', f'{result} = ') for line in module.use(weights)],
            ]
        ),
        *_labels(weights),
        *(module.sections(weights, folder) if hasattr(module, 'sections') else []),
        '## What becomes of a picture',
        words(preprocess),
        f'## Is it the same {what}?',
        proof,
    ]
    return '\n\n'.join(blocks) + '\n'


def result_of(weights: Weights) -> str:
    """Returns what a model gives: 'logits' of a classifier, else 'features'."""
    return 'logits' if weights.classifier else 'features'


def _labels(weights: Weights) -> list[str]:
    """Returns what is said of the labels, none of an encoder alone."""
    classifier = weights.classifier
    if classifier is None:
        return []
    function = 'The sigmoid of each' if classifier.several else 'The softmax of the logits'
    gives = 'is the probability of its label' if classifier.several else 'has the probabilities'
    divided = ''
    if classifier.temperature != 1:
        divided = f', once they are divided by the temperature, {classifier.temperature!r},'
    names = ''.join(f'{number}. {name}\n' for number, name in enumerate(classifier.names))
    return [
        '## Labels',
        f'{function}{divided} {gives}. The labels, in the order of the logits:',
        names,
    ]


def _code(lines: list[str]) -> str:
    return '\n'.join(['```python', *lines, '```'])


def _what(weights: Weights) -> str:
    architecture, origin = weights.architecture, weights.origin
    parts = [architecture.encoder]
    if architecture.is_vit:
        heads = f', {architecture.num_heads} heads' if architecture.num_heads else ''
        parts.append(f'patches of {architecture.patch_size} pixels{heads}')
    else:
        parts.append(f'stem {architecture.stem!r}, padding {architecture.padding!r}')
        if architecture.width > 1:
            parts.append(f'{architecture.width} times the filters')
    made = [f'by {origin["method"]}'] if 'method' in origin else []
    made += [f'in {origin["steps"]:,} steps'] if isinstance(origin.get('steps'), int) else []
    trained = f' It was trained {" ".join(made)}, with simclr_jax.' if made else ''
    if 'layout' in origin:
        trained = f' It was read from a file with the layout {origin["layout"]}.'
    if architecture.head and not architecture.head_layers:
        trained += ' Its projection head is not in here.'
    labels = len(weights.classifier.names) if weights.classifier else 0
    ends = f'with a classifier of {labels:,} labels' if labels else 'without classifier'
    return f'This is a {", ".join(parts)}, {ends}.{trained}'


def words(preprocess: Preprocess) -> str:
    """Says in words how a picture becomes the input."""
    size, colours = preprocess.size, 'red, green and blue' if preprocess.channels == 3 else 'grey'
    share = 'whole' if preprocess.crop == 1 else f'{preprocess.crop:.4g}'
    square = (
        'The largest square in the centre'
        if share == 'whole'
        else f'The square in the centre whose side is {share} of the shorter side'
    )
    aliased = (
        'averaging over all pixels (antialiasing)'
        if preprocess.antialias
        else 'in training and evaluation without antialiasing up to a factor of two; Pillow always '
        'has it, which changes pixels a little'
    )
    mean, std = (
        torch_layout.per_channel(values, preprocess.channels)
        for values in (preprocess.mean, preprocess.std)
    )
    return (
        f'{square} is resized to {size} x {size} pixels, {preprocess.interpolation}, {aliased}. '
        f'Pixels ({colours}) are divided by 255; then {mean} is subtracted, and what is left is '
        f'divided by {std}.'
    )


def pixel_lines(weights: Weights) -> list[str]:
    """Returns lines that make `images` of `picture` by Pillow and NumPy alone."""
    preprocess = weights.preprocess
    size, channels = preprocess.size, preprocess.channels
    mode = 'RGB' if channels == 3 else 'L'
    return [
        f"picture = picture.convert('{mode}')",
        f'side = round({preprocess.crop!r} * min(picture.size))',
        'left, top = (picture.width - side) // 2, (picture.height - side) // 2',
        f'how = PIL.Image.Resampling.{preprocess.interpolation.upper()}',
        f'picture = picture.resize(({size}, {size}), how, (left, top, left + side, top + side))',
        f'images = numpy.array(picture).reshape(1, {size}, {size}, {channels})',
    ]


def normalize_lines(weights: Weights, *, torch: bool = False) -> list[str]:
    """Returns `pixel_lines`'s lines, and those that normalize and put channels first."""
    preprocess = weights.preprocess
    mean, std = (
        torch_layout.per_channel(values, preprocess.channels)
        for values in (preprocess.mean, preprocess.std)
    )
    result = [
        *pixel_lines(weights),
        f'images = (images / 255 - numpy.array({mean})) / numpy.array({std})',
        "images = images.transpose(0, 3, 1, 2).astype('float32')",
    ]
    return [*result, 'images = torch.from_numpy(images)'] if torch else result


def dim_of(weights: Weights) -> int:
    """Returns the number of features; of a classifier, of logits."""
    import jax

    if weights.classifier:
        return len(weights.classifier.names)

    preprocess = weights.preprocess
    shape = (1, preprocess.size, preprocess.size, preprocess.channels)
    module = weights.architecture.module()
    return jax.eval_shape(
        lambda variables, images: module.apply(variables, images, train=False),
        weights.variables,
        jax.ShapeDtypeStruct(shape, np.float32),
    ).shape[-1]
