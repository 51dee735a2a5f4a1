"""The page of a classifier."""

import pathlib
import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from simclr_jax.report import html
from simclr_jax.report.classifier import Mistakes, accuracy_table, write_classifier

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from page import Page


def figure(mean, std=0.0, top_5=None):
    return {'mean': mean, 'std': std} | ({'top_5': {'mean': top_5, 'std': 0.0}} if top_5 else {})


COMPARISON = {
    'fine_tuned': {'all': figure(0.9), '10': figure(0.7, 0.02), '1': figure(0.4, 0.1)},
    'linear': {'all': figure(0.8), '10': figure(0.72, 0.02), '1': figure(0.42, 0.1)},
    'scratch': {'all': figure(0.7), '10': figure(0.3, 0.02), '1': figure(0.2, 0.1)},
}
NAMES = ['<cat>', 'dog & fox', 'cow']


CALIBRATION = {
    'temperature': 2.0,
    'held_out_pictures': 20,
    'before': {'expected_calibration_error': 0.123},
    'after': {
        'expected_calibration_error': 0.045,
        'counts': [0, 5, 15],
        'confidence': [None, 0.5, 0.9],
        'accuracy': [None, 0.4, 1.0],
    },
}


def write(path, comparison=COMPARISON, wrong=2, calibration=CALIBRATION, **options):
    random = np.random.default_rng(0)
    counts = np.array([[8, 2, 0], [0, 5, 0], [1, 0, 4]])
    write_classifier(
        path,
        title='resnet18 on <pictures>',
        summary={'command': 'python run.py --mode=finetune'},
        comparison=comparison,
        labels_of_all=130.0,
        notes=['On 20 pictures.'],
        test_size=20,
        confusion=counts if wrong else np.diag([8, 5, 4]),
        label_names=NAMES,
        mistakes=Mistakes(
            random.integers(0, 256, (wrong, 8, 8, 1), np.uint8),
            np.array([0, 2])[:wrong],
            np.array([1, 0])[:wrong],
            np.array([0.987, 0.5])[:wrong],
            of=3 if wrong else 0,
        ),
        calibration=calibration,
        metrics=[{'step': i, 'loss': 1.0 / (i + 1)} for i in range(9)],
        views=random.integers(0, 256, (4, 1, 8, 8, 1), np.uint8),
        config_text='{"seed": 0}',
        **options,
    )
    return path.read_text()


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    return write(tmp_path_factory.mktemp('report') / 'report.html')


def test_the_page_is_whole_and_alone(page):
    parsed = Page(page)
    assert parsed.text['h1'] == ['resnet18 on <pictures>']
    assert parsed.text['h2'] == [
        *('Results', 'How many labels', 'What is taken for what', 'Surest mistakes'),
        *('How sure it is', 'Curves', 'Augmented views', 'Config'),
    ]
    pictures = re.findall(r'<svg.*?</svg>', page, re.S)
    assert len(pictures) == 4
    assert all(ET.fromstring(picture).get('aria-label') for picture in pictures)


def test_the_table_has_a_row_a_number_of_labels_and_a_column_a_way(page):
    parsed = Page(page)
    heads = [text for text in parsed.text['th'] if text in ('fine-tuned', 'linear', 'from scratch')]
    assert heads == ['fine-tuned', 'linear', 'from scratch']
    assert parsed.text['strong'][0] == '90.0'
    assert {'72.0 ± 2.0', '42.0 ± 10.0'} <= set(parsed.text['strong'])
    assert any('All ways are given the same draws' in text for text in parsed.text['p'])
    assert not any('k-NN' in text for text in parsed.text['p'])  # it was not asked for


def test_mistakes_say_what_they_are_what_they_were_taken_for_and_how_sure(page):
    parsed = Page(page)
    assert [image['alt'] for image in parsed.all('img')[:2]] == [
        'a picture of <cat>, taken for dog & fox',
        'a picture of cow, taken for <cat>',
    ]
    assert ', 98.7 %' in parsed.text['span']
    assert any('3 test pictures' in text and 'the 2 surest' in text for text in parsed.text['p'])


def test_the_most_frequent_confusions_are_listed(page):
    parsed = Page(page)
    assert [text for text in parsed.text['td'] if ' of ' in text] == ['2 of 10', '1 of 5']


def test_a_fine_tuning_alone_has_no_curve_and_perfect_ones_no_mistakes(tmp_path):
    page = write(tmp_path / 'report.html', {'fine_tuned': {'all': figure(1.0)}}, wrong=0)
    parsed = Page(page)
    assert 'How many labels' not in parsed.text['h2']
    assert 'All test pictures are right.' in parsed.text['p']
    assert 'No picture was taken for another class.' in parsed.text['p']


SWEEP = {
    'learning_rate': 0.02,
    'head_learning_rate': 0.0,
    'candidates': [
        {'learning_rate': 0.005, 'head_learning_rate': 0.0, 'accuracy': 0.25},
        {'learning_rate': 0.02, 'head_learning_rate': 0.0, 'accuracy': 0.5},
        {'learning_rate': 1e9, 'head_learning_rate': 0.0, 'accuracy': None},
    ],
    'train_pictures': 2400,
    'held_out_pictures': 600,
}


def test_the_page_says_which_rates_were_tried_and_which_was_taken(page, tmp_path):
    assert 'Learning rates' not in Page(page).text['h2']
    parsed = Page(write(tmp_path / 'rates.html', sweep=SWEEP))
    assert 'Learning rates' in parsed.text['h2'] and '50.0' in parsed.text['strong']
    assert {'0.005', '0.02', '1e+09', 'learning rate'} <= set(parsed.text['th'])
    assert {'25.0', 'diverged'} <= set(parsed.text['td'])
    assert any('2,400' in text and 'on the 600 others' in text for text in parsed.text['p'])
    pairs = [{**each, 'head_learning_rate': 0.3} for each in SWEEP['candidates']]
    found = SWEEP | {'head_learning_rate': 0.3, 'candidates': pairs}
    parsed = Page(write(tmp_path / 'pairs.html', sweep=found))
    assert {'of the encoder', 'of the classifier', '0.3'} <= set(parsed.text['th'])


def test_more_than_ten_classes_have_rows_of_top_5():
    comparison = {
        'fine_tuned': {'all': figure(0.6, top_5=0.9), '10': figure(0.4, 0.01, top_5=0.8)},
        'knn': {'all': figure(0.5, top_5=0.7)},
    }
    assert html.format_table(accuracy_table(comparison), 'accuracy').splitlines() == [
        'accuracy  labels   fine-tuned  k-NN',
        'top-1     all            60.0  50.0',
        'top-1     10      40.0 +- 1.0     -',
        'top-5     all            90.0  70.0',
        'top-5     10             80.0     -',
    ]
    assert list(accuracy_table(COMPARISON)) == ['top-1']


def test_the_page_says_how_far_its_probabilities_can_be_trusted(page, tmp_path):
    assert 'calibration error is 4.5 %. Without the temperature of 2.00 it' in page
    assert 'it is 12.3 %; that was chosen on 20 labels held out' in page
    assert '5 of 50 %: 40 % right' in page and '15 of 90 %: 100 % right' in page
    plain = write(tmp_path / 'plain.html', calibration=CALIBRATION | {'held_out_pictures': 0})
    assert 'calibration error is 4.5 %. No labels were held out' in plain
