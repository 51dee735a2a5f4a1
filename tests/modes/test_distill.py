"""Distillation as a run: what a student may see, who may teach it, and what is remembered."""

import dataclasses
import pathlib
import sys

import jax
import numpy as np
import pytest

from simclr_jax import parallel
from simclr_jax.config import ConfigError
from simclr_jax.config_loading import load
from simclr_jax.data import example, splits
from simclr_jax.modes import distill, labelled, teacher
from simclr_jax.modes.encoder_file import classifier_weights
from simclr_jax.tools.plan import assemble_without_data
from simclr_jax.train.setup import prepare
from simclr_jax.weights import native
from simclr_jax.weights.description import Architecture, checksum
from simclr_jax.workdir.claim import TEACHER, claim_workdir

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'weights'))
from random_weights import random_classifier, random_weights

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = str(ROOT / 'configs/distill_digits.py')
NAMES = tuple(map(str, range(10)))
TINY = Architecture('resnet_tiny', stem='small')
GRAY = {'channels': 1, 'mean': (0.0,), 'std': (1.0,)}


def classifier(names=NAMES, **fields):
    return random_classifier(TINY, names, **{'size': 8} | GRAY | fields)


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('tfds'))


@pytest.fixture
def file(tmp_path):
    native.save(tmp_path / 'teacher', classifier())
    return str(tmp_path / 'teacher')


def config_of(data_dir, path, **fields):
    fields = {name.replace('__', '.'): str(value) for name, value in fields.items()}
    fields = {'distill.teacher': path, 'start.encoder': 'scratch'} | fields
    return load(DIGITS, {'data.data_dir': data_dir} | fields)


def settled(config, workdir):
    return teacher.settle(config, str(workdir))[0]


def test_a_student_of_the_teacher_alone_sees_no_label_and_no_test_picture(data_dir, file, tmp_path):
    config = settled(config_of(data_dir, file, data__train_split='all'), tmp_path)
    assert 'train' in splits_of(config) and config.distill.checksum == checksum(classifier())
    pictures = distill.open_pictures(config, classifier())
    assert pictures.few is None and pictures.test.labelled
    run = prepare(config, None, None, pictures.train, classifier())
    assert 'label' not in run.abstract_batch()
    assert run.method.classes == 10 and not run.probe
    assert pictures.train.num_examples == pictures.split.num_examples - 500
    assert not {*pictures.train.identify()} & {*pictures.test.test.identify()}


def splits_of(config):
    return distill.open_split(config, 'train').data.splits


def test_only_the_chosen_labels_can_be_seen(data_dir, file):
    config = config_of(data_dir, file, distill__alpha=0.5, finetune__labels=10, finetune__draw=2)
    pictures = distill.open_pictures(config, classifier())
    opened = labelled.open_labelled(config)
    want = labelled.choose(config, opened)  # as fine-tuning chooses them
    assert {*pictures.few.identify()} == {*want.identify()}
    source = pictures.train
    assert source.num_examples == 1297
    labels = splits.all_labels(source)
    seen = np.isin(source.identify(), want.identify())
    assert seen.sum() == 100 and (labels[~seen] == -1).all()
    before = splits.all_labels(opened.train)
    np.testing.assert_array_equal(labels[seen], before[seen])
    # All else of a record is as it was, in any order of reading.
    places = [7, 3, 500, 3]
    for record, old in zip(source.read(places), opened.train.read(places), strict=True):
        assert example.parse(record)[0::2] == example.parse(old)[0::2]
    run = prepare(config, None, None, source, classifier())
    assert 'label' in run.abstract_batch()


def test_labels_of_a_table_are_hidden_too(data_dir, file):
    source = distill.open_pictures(config_of(data_dir, file), classifier()).train
    source = dataclasses.replace(source, labels=np.arange(source.num_examples) % 10)
    hidden = np.arange(source.num_examples) % 3 == 0
    found = splits.hide_labels(source, hidden).labels
    assert (found[hidden] == -1).all() and (found[~hidden] == source.labels[~hidden]).all()
    assert splits.hide_labels(source, np.zeros(source.num_examples, bool)) is source


@pytest.mark.parametrize(
    ('weights', 'words'),
    [
        (
            classifier(NAMES[:9]),
            r"eval\.test_split='test': its 10 classes are not the 9 .*does not know '9'",
        ),
        (classifier(NAMES[::-1]), 'have another order'),
        (
            classifier((*NAMES, 'a', 'b', 'c', 'd')),
            r"lack 'a', 'b', 'c' \.\.\.; pictures with the labels of the teacher are named",
        ),
    ],
)
def test_labels_that_are_not_the_teachers(weights, words, data_dir, file):
    with pytest.raises(ConfigError, match=words) as error:
        distill.open_pictures(config_of(data_dir, file), weights)
    assert '\n' not in str(error.value) and file in str(error.value)


def test_who_cannot_teach(data_dir, tmp_path):
    def settle(path):
        return settled(config_of(data_dir, str(path)), tmp_path / 'run')

    with pytest.raises(ConfigError, match=r"distill\.teacher='.*nowhere': .*no such file"):
        settle(tmp_path / 'nowhere')
    native.save(tmp_path / 'encoder', random_weights(TINY, 8, **GRAY))
    with pytest.raises(ConfigError, match=r'distill\.teacher=.*encoder without a classifier'):
        settle(tmp_path / 'encoder')
    native.save(tmp_path / 'several', classifier(several=True))
    with pytest.raises(ConfigError, match='may have several of its 10 labels'):
        settle(tmp_path / 'several')
    with pytest.raises(ConfigError, match='--teacher=PATH'):
        distill.main(settle(''), str(tmp_path / 'run'))
    coloured = classifier(channels=3)
    with pytest.raises(ConfigError, match=r'distill\.teacher=.* takes pictures of 3 channel'):
        config = config_of(data_dir, str(tmp_path / 'encoder'))
        pictures = distill.open_pictures(config, coloured)
        prepare(config, None, None, pictures.train, coloured)
    config = config_of(data_dir, str(tmp_path / 'encoder'))
    config.start.encoder = ''
    with pytest.raises(ConfigError, match='--encoder=scratch'):
        distill.main(config, str(tmp_path / 'run'))
    assert not (tmp_path / 'run/config.json').exists()


def test_pictures_of_another_range_are_refused(data_dir, file):
    config = config_of(data_dir, file)
    train = distill.open_pictures(config, classifier()).train
    deep = dataclasses.replace(train, intensity=(0.0, 4095.0))
    with pytest.raises(ConfigError, match=r'\(0\.0, 65535\.0\) .* have \(0\.0, 4095\.0\)'):
        prepare(config, None, None, deep, classifier())
    same = classifier(intensity=(0.0, 4095.0))
    assert prepare(config, None, None, deep, same).teacher is same
    assert prepare(config, None, None, train, same).teacher is same  # 8 bits have no range


def test_what_the_teacher_sees_follows_from_its_file(data_dir, file):
    weights = classifier(size=16, mean=(0.25,), std=(0.5,))
    weights = dataclasses.replace(
        weights, preprocess=dataclasses.replace(weights.preprocess, interpolation='bilinear')
    )
    config = config_of(data_dir, file, data__mean='(0.5,)', data__std='(0.2,)')
    train = distill.open_pictures(config, weights).train
    seen = prepare(config, None, None, train, weights).method.teacher
    assert (seen.size, seen.interpolation, seen.antialias) == (16, 'bilinear', False)
    np.testing.assert_allclose(seen.scale, [0.4])
    np.testing.assert_allclose(seen.shift, [0.5])
    config = distill.as_seen_by(weights, config)
    assert (config.data.image_size, config.data.mean, config.data.std) == (16, (0.25,), (0.5,))


def test_a_run_remembers_its_teacher(data_dir, file, tmp_path):
    workdir = tmp_path / 'run'
    config, lines = teacher.settle(config_of(data_dir, file), str(workdir))
    assert len(lines) == 1 and 'resnet_tiny, 10 labels, checksum' in lines[0]
    weights = teacher.read(config, str(workdir))
    pictures = distill.open_pictures(config, weights)
    workdir.mkdir()
    teacher.keep(str(workdir), weights)
    claim_workdir(config, str(workdir), pictures.split.held)
    # Without the flag, and when the file has gone: its copy is what is learned from.
    pathlib.Path(file).rename(tmp_path / 'moved')
    for path in ('', file, str(tmp_path / 'moved')):
        again = settled(config_of(data_dir, path), workdir)
        assert again.distill.checksum == checksum(weights)
        assert checksum(teacher.read(again, str(workdir))) == checksum(weights)
    native.save(tmp_path / 'other', classifier(NAMES, temperature=2.0))
    with pytest.raises(ConfigError, match=r'the run in .*run began with .*another workdir'):
        settled(config_of(data_dir, str(tmp_path / 'other')), workdir)
    # Without the copy, another file under the same name is noticed.
    (workdir / TEACHER).unlink()
    native.save(file, classifier(NAMES, temperature=2.0))
    with pytest.raises(ConfigError, match='began with'):
        teacher.read(settled(config_of(data_dir, ''), workdir), str(workdir))


@pytest.mark.slow
def test_a_plan_counts_the_teacher(data_dir, file):
    config = config_of(data_dir, file, batch_size=16)
    mesh = parallel.make_mesh(jax.devices()[:1])
    run = assemble_without_data(config, mesh)
    program = run.lower_step().compile(compiler_options={'xla_backend_optimization_level': 0})
    leaves = jax.tree.leaves((run.abstract_state(), run.abstract_batch(), classifier().variables))
    wanted = sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    assert program.memory_analysis().argument_size_in_bytes == pytest.approx(wanted, rel=0.01)


@pytest.mark.slow
def test_a_student_is_written_as_a_classifier(data_dir, file, tmp_path):
    weights = classifier()
    config = config_of(data_dir, file, finetune__head_init='normal')
    train = distill.open_pictures(config, weights).train
    run = prepare(config, None, None, train, weights)
    state = run.init()
    found = classifier_weights(run, state.all_variables(), NAMES)
    native.save(tmp_path / 'student', found)
    student = native.read(tmp_path / 'student')
    assert student.classifier.names == NAMES and student.origin['method'] == 'distill'
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    want = run.method.network.apply(state.all_variables(), images, train=False)[1]
    got = student.network().apply(student.variables, images, train=False)[1]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_fields_that_contradict(data_dir):
    with pytest.raises(ConfigError, match=r'distill\.alpha=0'):
        config_of(data_dir, 'x', distill__alpha=0)
    with pytest.raises(ConfigError, match=r'distill\.alpha=1\.5'):
        config_of(data_dir, 'x', distill__alpha=1.5)
    with pytest.raises(ConfigError, match=r'distill\.temperature=0'):
        config_of(data_dir, 'x', distill__temperature=0)
    with pytest.raises(ConfigError, match=r"distill\.teacher='x': has an effect with method='dis"):
        load(str(ROOT / 'configs/finetune_digits.py'), {'distill.teacher': 'x'})
