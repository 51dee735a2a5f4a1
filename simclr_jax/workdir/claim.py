"""Which run a workdir belongs to."""

from etils import epath
from ml_collections import ConfigDict

from simclr_jax import files, parallel
from simclr_jax.config import ConfigError, to_json
from simclr_jax.config_loading import check_same_run


def claim_workdir(config: ConfigDict, workdir: str) -> None:
    """Remembers the config in the workdir, or checks it against the one that is there.

    Raises:
      ConfigError: the workdir holds a run of another config, or cannot be written.
    """
    saved = epath.Path(workdir) / 'config.json'
    if saved.exists():
        check_same_run(config, saved.read_text(), workdir)
    elif parallel.is_main_process():
        try:
            files.write_text(saved, to_json(config))
        except OSError as error:
            raise ConfigError(
                f'--workdir={workdir}: cannot be written ({error.strerror}); name another one'
            ) from error
