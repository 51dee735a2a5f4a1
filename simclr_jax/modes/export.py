"""`--mode=export`: writes an encoder as a file, for this library or for another one."""

from etils import epath

from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.modes.encoder_file import check_output, export_native
from simclr_jax.weights import native
from simclr_jax.weights.loading import read_weights

FORMATS = ('native',)


def main(
    *,
    encoder: str | None,
    workdir: str | None,
    step: int | None,
    format: str,
    output: str | None,
    overwrite: bool,
) -> None:
    """Writes an encoder in another form.

    Args:
      encoder: a workdir, an encoder file, or another library's weights.
      workdir: of a run, whose checkpoint is taken instead; it may be training.
      step: of that checkpoint; the last one where None.
      format: one of `FORMATS`.
      output: a folder, or a file that ends in .safetensors; None is the workdir.
      overwrite: whether to replace what is there.

    Raises:
      ConfigError: one of these is wrong; nothing was written.
    """
    if format not in FORMATS:
        raise ConfigError(f'--format={format}: must be one of {", ".join(FORMATS)}')
    if step is not None and not workdir:
        raise ConfigError('--step: names a checkpoint, and so needs --workdir')
    path = None
    if output:
        path = epath.Path(output).expanduser()
        if path.suffix != '.safetensors':
            path /= native.NAME
        check_output(path, overwrite)
    if workdir:
        path = export_native(workdir, step, path)
    elif path is None:
        raise ConfigError('--output: name the folder to write to')
    elif parallel.is_main_process():
        weights = read_weights(encoder)
        path.parent.mkdir(parents=True, exist_ok=True)
        native.save(path, weights)
    if parallel.is_main_process():
        print(f'encoder   {path}', flush=True)
