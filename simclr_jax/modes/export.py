"""`--mode=export`: writes an encoder as a file, for this library or for another one."""

from etils import epath

from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.modes.encoder_file import check_output, checkpoint_weights
from simclr_jax.weights import exporting, formats, native, parity
from simclr_jax.weights.description import Weights
from simclr_jax.weights.loading import read_weights


def main(
    *,
    encoder: str | None,
    workdir: str | None,
    step: int | None,
    format: str,
    output: str | None,
    overwrite: bool,
    data: str | None = None,
) -> None:
    """Writes an encoder in another form, and proves that it is the same.

    Args:
      encoder: a workdir, an encoder file, or another library's weights.
      workdir: of a run, whose checkpoint is taken instead; it may be training.
      step: of that checkpoint; the last one where None.
      format: one of `formats.FORMATS`.
      output: a folder. Of the native format it may be a file that ends in .safetensors, or a place
        in a bucket; and with `workdir` None, which is the workdir.
      overwrite: whether to replace what is there.
      data: a folder of pictures to prove it by; photographs of other packages where None.

    Raises:
      ConfigError: one of these is wrong, or the format cannot express the encoder; nothing was
        written.
      RunError: to the library that it is for, what was written is another encoder; it is deleted.
    """
    formats.module_of(format)
    if step is not None and not workdir:
        raise ConfigError('--step: names a checkpoint, and so needs --workdir')
    if output is None and not (format == 'native' and workdir):
        raise ConfigError(f'--output: missing; name the folder that --format={format} writes')
    if format == 'native' and _is_file(output):
        path = epath.Path(output or workdir).expanduser()
        if path.suffix != '.safetensors':
            weights = _weights(encoder, workdir, step)
            path /= native.name_of(weights)
        else:
            weights = None
        if output:
            check_output(path, overwrite)
        weights = weights or _weights(encoder, workdir, step)
        if parallel.is_main_process():
            path.parent.mkdir(parents=True, exist_ok=True)
            native.save(path, weights)
            print(f'encoder   {path}', flush=True)
        return
    place = exporting.checked_place(output, overwrite)
    weights = _weights(encoder, workdir, step)
    formats.module_of(format).check(weights)
    pictures, told = parity.pictures_for(weights.preprocess, data)
    if parallel.is_main_process():
        print(exporting.export(weights, format, place, pictures, told))
        print(f'encoder   {output}: its README.md says how it is loaded', flush=True)


def _is_file(output: str | None) -> bool:
    return output is None or output.endswith('.safetensors') or '://' in output


def _weights(encoder: str | None, workdir: str | None, step: int | None) -> Weights:
    return checkpoint_weights(workdir, step) if workdir else read_weights(encoder)
