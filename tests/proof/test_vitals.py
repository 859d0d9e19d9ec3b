"""What is read from /proc, and the picture of it."""

import os
from xml.etree import ElementTree

from tests.proof.vitals import Curve, Vitals, draw

_SVG = "{http://www.w3.org/2000/svg}"


def test_vitals_of_this_process_are_plausible() -> None:
    vitals = Vitals.of(os.getpid())

    assert 10**7 < vitals.rss < 10**10
    assert vitals.descriptors >= 3
    assert vitals.threads >= 1


def test_an_open_file_is_one_more_descriptor() -> None:
    before = Vitals.of(os.getpid()).descriptors
    with open(os.devnull):  # noqa: PTH123 - the shortest
        assert Vitals.of(os.getpid()).descriptors == before + 1


def test_median_is_of_the_part_that_is_asked_for() -> None:
    curve = Curve(title="", times=[0, 1, 2, 3, 4], values=[9, 9, 1, 2, 3])

    assert curve.median_between(0.5, 1.0) == 2


def test_picture_has_a_line_with_each_value_of_each_curve() -> None:
    curve = Curve(title="memory, MB", times=[0, 30, 60], values=[1, 2, 2])

    picture = ElementTree.fromstring(draw("two of them", [curve, curve]))  # noqa: S314 - our own

    lines = picture.findall(f"{_SVG}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 3]
    texts = [text.text for text in picture.iter(f"{_SVG}text")]
    assert texts[0] == "two of them"
    assert texts.count("memory, MB") == 2
