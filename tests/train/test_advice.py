import pytest

from simclr_jax.train.advice import input_advice


@pytest.mark.parametrize('share', [0.0, 0.05])
def test_little_waiting_needs_no_advice(share):
    assert input_advice(share, backend='tf', cache='none') is None


def test_what_helps_depends_on_what_is_tried_already():
    on_host = input_advice(0.3, backend='tf', cache='none')
    on_chip = input_advice(0.3, backend='jax', cache='none')
    assert on_host.startswith('30% of the time') and "try augment.backend='jax'" in on_host
    assert 'data.canvas' in on_chip and 'data.canvas' not in on_host
    for advice in (on_host, on_chip):
        assert "data.cache='device'" in advice and 'data.workers' in advice
    assert input_advice(0.3, backend='jax', cache='device') is None
