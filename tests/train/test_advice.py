import time

import pytest

from simclr_jax.train.advice import input_advice
from simclr_jax.train.clock import Clock


@pytest.mark.parametrize('share', [0.0, 0.05])
def test_little_waiting_needs_no_advice(share):
    assert input_advice(share, backend='tf', cache='none') is None


def test_what_helps_depends_on_what_is_tried_already():
    on_host = input_advice(0.3, backend='tf', cache='none')
    on_chip = input_advice(0.3, backend='jax', cache='none', canvas=512)
    of_one_size = input_advice(0.3, backend='jax', cache='none')
    assert on_host.startswith("try augment.backend='jax'")
    assert 'a smaller data.canvas than 512' in on_chip and 'data.canvas' not in on_host
    assert 'data.canvas' not in of_one_size
    for advice in (on_host, on_chip):
        assert "data.cache='device'" in advice and 'processor cores' in advice
    assert input_advice(0.3, backend='jax', cache='device') is None


def test_the_advice_on_input_proposes_nothing_that_the_run_has():
    advice = input_advice(0.3, backend='jax', cache='none', workers=0)
    assert "augment.backend='jax'" not in advice and 'data.workers' not in advice
    assert 'data.workers=0 instead of 4' in input_advice(
        0.3, backend='jax', cache='none', workers=4
    )
    on_cpu = input_advice(0.3, backend='tf', cache='none', on_cpu=True)
    assert 'only decodes' not in on_cpu  # the same cores would make the views


def test_the_share_of_the_time_is_said_once(tmp_path):
    assert '%' not in input_advice(0.089, backend='tf', cache='none')  # whoever shows it adds it
    clock = Clock(str(tmp_path), 0, 8)
    clock._start = time.monotonic() - 100
    clock._waited_in_all = 30.0
    said = clock.advise(backend='tf', cache='none')
    assert said.startswith('30% of the time went into waiting for input; try ')
    assert clock.advise(backend='tf', cache='none') is None
