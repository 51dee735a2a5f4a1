"""Maps of any stage or block are timm's on the same weights: any size of pictures, any stride."""

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch')  # first: it can crash after TensorFlow
timm = pytest.importorskip('timm', reason='needs timm')

from simclr_jax.models.maps import to_pixels  # noqa: E402
from simclr_jax.models.vit import sincos_positions  # noqa: E402
from simclr_jax.weights import layouts  # noqa: E402
from simclr_jax.weights.classifier import of_weights  # noqa: E402

PIXELS = np.random.default_rng(0).normal(size=(2, 96, 128, 3)).astype(np.float32)


def randomized(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.dtype.is_floating_point:
                noise = torch.randn(value.shape, generator=generator)
                if name.endswith('running_var') or (value.ndim == 1 and 'bias' not in name):
                    value.copy_(1 + 0.1 * noise.abs())
                else:
                    value.copy_(noise * (0.02 if value.ndim == 3 else value[0].numel() ** -0.5))
    return model.eval()


def read(model, path):
    torch.save(model.state_dict(), path)
    return layouts.read(path)


def ours(weights, images, layers, **fields):
    """Our maps `[n, height, width, dim]` of `layers`."""
    encoder = weights.architecture.module(**fields).encoder
    variables = {name: tree['encoder'] for name, tree in weights.variables.items()}
    return encoder.apply(variables, images, train=False, layers=layers)


def theirs(made):
    return [maps.permute(0, 2, 3, 1).numpy() for maps in made]


def assert_close(found, want):
    assert len(found) == len(want)
    for one, other in zip(found, want, strict=True):
        assert one.shape == other.shape and one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
@pytest.mark.parametrize('stride', [32, 16, 8])
def test_stages_of_a_resnet(name, stride, tmp_path):
    model = randomized(timm.create_model(name, num_classes=0, output_stride=stride))
    weights = read(model, tmp_path / 'weights.pth')
    dilated = {32: 0, 16: 1, 8: 2}[stride]
    odd = PIXELS[:, :91, :101]  # sides that no stride divides
    with torch.no_grad():
        made = model.forward_intermediates(
            torch.tensor(odd).permute(0, 3, 1, 2), indices=[1, 2, 3, 4], intermediates_only=True
        )
    assert_close(ours(weights, odd, (1, 2, 3, 4), dilated=dilated), theirs(made))


@pytest.mark.parametrize('positions', ['learned', 'sincos'])
@pytest.mark.parametrize('shape', [(64, 64), (96, 128)])
def test_blocks_of_a_vit(positions, shape, tmp_path):
    """Also of pictures of another size than it was made for, with interpolated positions."""
    name = 'vit_tiny_patch16_224'
    model = timm.create_model(name, num_classes=0, img_size=64, dynamic_img_size=True)
    randomized(model)
    if positions == 'sincos':
        fixed = np.pad(sincos_positions(4, 4, 192), ((1, 0), (0, 0)))
        model.pos_embed.data = torch.tensor(fixed)[None]
    weights = read(model, tmp_path / 'weights.pth')
    assert weights.architecture.positions == positions
    images = PIXELS[:, : shape[0], : shape[1]]
    with torch.no_grad():
        made = model.forward_intermediates(
            torch.tensor(images).permute(0, 3, 1, 2), [1, 7, 11], norm=True, intermediates_only=True
        )
    assert_close(ours(weights, images, (2, 8, 12), grid=4), theirs(made))


def test_padding_of_a_vit_is_timms(tmp_path):
    """Sides that the patch does not divide: padded at the bottom and on the right."""
    model = timm.create_model(
        'vit_tiny_patch16_224',
        num_classes=0,
        img_size=64,
        dynamic_img_size=True,
        dynamic_img_pad=True,
    )
    encoder = of_weights(read(randomized(model), tmp_path / 'weights.pth'))
    pixels = np.random.default_rng(1).integers(0, 256, (2, 70, 91, 3), np.uint8)
    inputs = torch.tensor(np.array(encoder.normalize(pixels))).permute(0, 3, 1, 2)
    with torch.no_grad():
        made = model.forward_intermediates(inputs, [11], norm=True, intermediates_only=True)
    found = encoder.maps(pixels, layers=[12], whole=True)
    assert found[0].shape == (2, 5, 6, 192)
    assert_close(found, theirs(made))


def test_attention_of_the_class_token_is_timms(tmp_path):
    model = randomized(timm.create_model('vit_tiny_patch16_224', num_classes=0, img_size=64))
    encoder = of_weights(read(model, tmp_path / 'weights.pth'))
    pixels = np.random.default_rng(2).integers(0, 256, (2, 64, 64, 3), np.uint8)
    attention, seen = model.blocks[-1].attn, []
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda module, given, made: seen.append(made))
    with torch.no_grad():
        model(torch.tensor(np.array(encoder.normalize(pixels))).permute(0, 3, 1, 2))
    want = seen[0][:, :, 0, 1:].reshape(2, 3, 4, 4).numpy()
    assert_close([encoder.attention(pixels, whole=True)], [want])


def test_pixels_of_maps_are_torchs():
    maps = PIXELS[:, :5, :6]
    resized = torch.nn.functional.interpolate(
        torch.tensor(maps).permute(0, 3, 1, 2), scale_factor=16, mode='bilinear'
    )
    found = to_pixels(maps, 16, 70, 91)
    assert_close([np.array(found)], [resized.permute(0, 2, 3, 1).numpy()[:, :70, :91]])
