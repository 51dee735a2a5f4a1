"""Memory is foreseen: what does not fit stops before its first step, and what is suggested fits."""

import pathlib
import types

import jax
import numpy as np
import pytest

from simclr_jax import parallel
from simclr_jax.config import ConfigError, RunError
from simclr_jax.config_auto import GIB
from simclr_jax.config_loading import load
from simclr_jax.config_smaller import changed, changes, down_to
from simclr_jax.data.sources import Source
from simclr_jax.modes import evaluation, pretrain, run_evaluation
from simclr_jax.train import hardware, memory
from simclr_jax.train.out_of_memory import TRAINING, explained, is_out_of_memory, refused
from simclr_jax.train.setup import assemble

ROOT = pathlib.Path(__file__).parents[2]


def digits(**fields):
    given = {name.replace('__', '.'): str(value) for name, value in fields.items()}
    return load(str(ROOT / 'configs/simclr_digits.py'), given)


def make_run(devices: int = 1, **fields):
    source = Source(lambda _: [], 1297, (8, 8, 1), tuple(map(str, range(10))))
    return assemble(digits(**fields), parallel.make_mesh(jax.devices()[:devices]), source)


@pytest.fixture(scope='module')
def run():
    return make_run(batch_size=64)


@pytest.fixture(scope='module')
def need(run):
    program = run.lower_step().compile(compiler_options=memory._QUICK)
    return memory.needed(run, memory.program_bytes(program))


@pytest.mark.slow
def test_the_need_does_not_depend_on_how_well_the_program_is_compiled(run, need):
    whole = memory.program_bytes(run.lower_step().compile())
    assert memory.needed(run, whole) == need
    state = sum(x.nbytes for x in jax.tree.leaves(run.init()))
    assert need > 2 * state  # the state, the copy that is saved, and what the step makes


@pytest.mark.slow
def test_everything_that_a_program_makes_bounds_what_it_holds(run):
    bound = memory._made(run.trace_step().jaxpr)
    temporary = run.lower_step().compile().memory_analysis().temp_size_in_bytes
    assert temporary < bound < 100 * temporary


def test_batches_in_flight_and_a_cached_data_set_are_counted():
    run = make_run(batch_size=64, data__cache='none', augment__backend='tf')
    batch = sum(np.prod(x.shape) * x.dtype.itemsize for x in run.abstract_batch().values())
    state = memory.needed(run, 0) - memory.IN_FLIGHT * batch
    cached = make_run(batch_size=64, data__cache='device', augment__backend='jax')
    batch = sum(np.prod(x.shape) * x.dtype.itemsize for x in cached.abstract_batch().values())
    assert memory.needed(cached, 0) - memory.IN_FLIGHT * batch == pytest.approx(
        state + 1297 * 8 * 8, rel=1e-3
    )


@pytest.mark.slow
def test_a_step_that_fits_is_compiled(run, need):
    assert memory.program_bytes(memory.compile_step(run, need)) > 0
    assert memory.compile_step(run, None) is not None  # a device that does not say what it has


def test_a_step_that_does_not_fit_stops_and_says_what_it_needs(run, need, monkeypatch):
    monkeypatch.setattr(memory, '_bytes_with', lambda run, fields: need / run.config.batch_size)
    with pytest.raises(memory.DoesNotFit) as raised:
        memory.compile_step(run, 0.9 * need)
    first, *flags = str(raised.value).splitlines()
    assert 'a step of 64 pairs at 8 pixels with resnet_tiny needs' in first
    assert f'this machine has {0.9 * need / GIB:.1f} GiB' in first
    assert [flag.split()[0] for flag in flags] == [
        '--config.optimizer.accumulation_steps=2',
        '--config.batch_size=32',
    ]


@pytest.mark.slow
def test_settings_that_fit_are_found_by_compiling_them(run, need, capsys):
    with pytest.raises(memory.DoesNotFit) as raised:
        memory.compile_step(run, 0.9 * need)
    flags = [line.split()[0] for line in str(raised.value).splitlines()[1:]]
    assert flags == ['--config.optimizer.accumulation_steps=2', '--config.batch_size=32']
    assert f'trying {flags[0]}: ' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize('fields', [{'optimizer__accumulation_steps': 2}, {'batch_size': 32}])
def test_what_was_suggested_fits(fields, need):
    memory.compile_step(make_run(**{'batch_size': 64} | fields), 0.9 * need)


@pytest.mark.slow
def test_what_cannot_fit_says_so(run, need):
    with pytest.raises(memory.DoesNotFit, match='nothing that was tried fits'):
        memory.compile_step(run, 1000.0)


@pytest.mark.slow
def test_a_user_who_knows_better_is_warned_only(need, capsys):
    run = make_run(batch_size=64, health__on_memory='warn')
    assert memory.compile_step(run, 0.9 * need) is not None
    assert capsys.readouterr().out.count('it is tried all the same') == 1


def test_cpu_devices_share_the_memory_of_the_machine(monkeypatch):
    monkeypatch.setattr(hardware, 'host_memory', lambda: 8.0 * GIB)
    assert memory.available(parallel.make_mesh()) == GIB
    assert memory.available(parallel.make_mesh(jax.devices()[:1])) == 8 * GIB
    monkeypatch.setattr(hardware, 'host_memory', lambda: None)
    assert memory.available(parallel.make_mesh()) is None


def test_settings_that_were_refused_claim_no_workdir(tmp_path, monkeypatch):
    def refuse(run, room):
        assert (tmp_path / 'run/config.json').exists()
        raise memory.DoesNotFit('too large')

    monkeypatch.setattr(memory, 'compile_step', refuse)
    fields = {'data__data_dir': tmp_path / 'data', 'eval__after_pretrain': '()'}
    with pytest.raises(memory.DoesNotFit, match='too large'):
        pretrain.main(digits(**fields, batch_size=64), str(tmp_path / 'run'))
    assert not (tmp_path / 'run/config.json').exists()


def test_changes_are_the_mildest_first_and_possible():
    config = digits(batch_size=64)
    same, smaller = changes(config, devices=8, over=1.5)
    assert same[0] == {'model.remat': 'blocks'}
    assert same[1] == {'optimizer.accumulation_steps': 2}
    assert {'batch_size': 32, 'model.remat': 'full'} in smaller
    same, smaller = changes(config, devices=8, over=3.0, first={'batch_size': 8}, recompute=False)
    assert same == [{'optimizer.accumulation_steps': n} for n in (4, 8)]
    assert smaller[0] == {'batch_size': 8}
    photographs = load(str(ROOT / 'configs/simclr_folder.py'), {'data.path': '/pictures'})
    _, smaller = changes(photographs, devices=1, over=4.0)
    assert {'data.image_size': 112} in smaller
    assert smaller[-1] == {'model.encoder': 'resnet18', 'data.image_size': 112}
    moco = load(str(ROOT / 'configs/moco_v2_digits.py'), {})
    for group in changes(moco, devices=1, over=2.0):
        for fields in group:
            batch = changed(moco, fields).batch_size
            assert moco.moco.queue_size % batch == 0


def test_limits_are_taken_where_they_are_less():
    config = load(str(ROOT / 'configs/simclr_folder.py'), {'batch_size': '64'})
    limits = {'batch_size': 128, 'data.image_size': 64, 'model.encoder': 'resnet_tiny'}
    assert down_to(config, limits) == {'data.image_size': 64, 'model.encoder': 'resnet_tiny'}
    assert down_to(digits(), limits | {'batch_size': 999}) == {}


@pytest.mark.parametrize(
    ('message', 'gib'),
    [
        (
            'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO '
            'temporaries (74.62G) exceeds available HBM (15.75G).',
            74.62,
        ),
        ('RESOURCE_EXHAUSTED: memory space hbm. Used 512.5M of 100M hbm.', 512.5 / 1024),
        ('RESOURCE_EXHAUSTED: Out of memory allocating 51802584128 bytes.', 48.2449),
        ('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1073741824 bytes.', 1.0),
        ('RESOURCE_EXHAUSTED: no room', None),
    ],
)
def test_the_memory_that_a_refusal_names_is_read(message, gib):
    assert refused(message) == (gib and pytest.approx(gib * GIB, rel=1e-4))
    assert is_out_of_memory(jax.errors.JaxRuntimeError(message))


def test_running_out_of_memory_is_one_error_with_three_ways_out():
    huge = jax.jit(lambda x: jax.numpy.zeros(2**50, 'uint8') + x)
    with pytest.raises(RunError) as raised, explained('training', TRAINING):
        jax.block_until_ready(huge(np.uint8(1)))  # a real refusal
    text = str(raised.value)
    assert text.startswith('out of memory during training: 1048576.00 GiB more')
    for way in ('optimizer.accumulation_steps', 'model.remat', 'batch_size'):
        assert way in text
    with pytest.raises(RunError, match='out of memory'), explained('training', TRAINING):
        np.empty(2**55, np.uint8)
    with pytest.raises(jax.errors.JaxRuntimeError), explained('training', TRAINING):
        raise jax.errors.JaxRuntimeError('INTERNAL: something else')


@pytest.mark.slow
def test_running_out_of_memory_in_evaluation_is_one_error_with_its_own_ways_out(
    run, tmp_path, monkeypatch
):
    huge = jax.jit(lambda: jax.numpy.zeros(2**50, 'uint8'))
    monkeypatch.setattr(evaluation, 'split_of', lambda *_: jax.block_until_ready(huge()))
    split = types.SimpleNamespace(num_examples=2)
    data = types.SimpleNamespace(train=split, test=split, labelled=True)
    with pytest.raises(RunError) as raised:
        run_evaluation.evaluate_run(run, str(tmp_path), run.init(), data, ('knn',))
    text = str(raised.value)
    assert text.startswith('out of memory during evaluation: 1048576.00 GiB more')
    for way in ('eval.batch_size', 'eval.baselines=False', 'labels_per_class'):
        assert way in text


def test_an_unknown_way_to_take_refusals_is_an_error():
    with pytest.raises(ConfigError, match=r"health\.on_memory='swap': must be one of stop, warn"):
        digits(health__on_memory='swap')
