"""What the contrastive losses ask of their arguments."""

import jax


def is_known(temperature: float | jax.Array) -> bool:
    """Whether there is a value to look at: a traced temperature has none."""
    return not isinstance(temperature, jax.core.Tracer)


def check_temperature(temperature: float | jax.Array) -> None:
    """Raises ValueError where the temperature is known and not positive."""
    if is_known(temperature) and temperature <= 0:
        raise ValueError(f'temperature={temperature}; it must be positive, as 0.1 is')


def check_pairs(projections: jax.Array) -> None:
    """Raises ValueError where the projections are not `[batch, 2, dim]`."""
    if projections.ndim != 3 or projections.shape[1] != 2:
        raise ValueError(
            f'projections has shape {projections.shape}; it must be [batch, view, dim] with 2 views'
        )
