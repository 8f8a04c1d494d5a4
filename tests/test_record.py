import dataclasses
import hashlib

import pytest

from bitgen.record import Box, Phrase, RecordError, Sample, Text, image_id

DOG = Text("a dog 😀", (Phrase(2, 5, (Box(0.1, 0.2, 0.3, 1.0), Box(0.0, 0.0, 0.5, 0.5))),))
SAMPLE = Sample(
    key="coco-1",
    source="coco",
    split="train",
    ids=("coco:1", "flickr:2"),
    width=640,
    height=480,
    licence="CC BY 2.0",
    url="http://127.0.0.1/1.jpg",
    sha256="ab" * 32,
    texts=(DOG, Text("two")),
)


def test_a_sample_survives_json():
    assert Sample.from_json(SAMPLE.to_json()) == SAMPLE


def test_a_sample_survives_json_as_bytes():
    assert Sample.from_json(SAMPLE.to_json().encode()) == SAMPLE


def test_equal_samples_give_equal_lines():
    assert dataclasses.replace(SAMPLE, key="coco-1").to_json() == SAMPLE.to_json()
    assert "\n" not in SAMPLE.to_json()


@pytest.mark.parametrize(
    "corners",
    [
        (0.5, 0.0, 0.5, 1.0),
        (0.6, 0.0, 0.5, 1.0),
        (0.0, 1.0, 1.0, 0.0),
        (-0.1, 0.0, 1.0, 1.0),
        (0.0, 0.0, 1.1, 1.0),
        (0.0, 0.0, float("nan"), 1.0),
        (0.0, 0.0, float("inf"), 1.0),
    ],
)
def test_a_box_outside_the_image_or_without_area_is_refused(corners):
    with pytest.raises(RecordError, match="expected"):
        Box(*corners)


def test_the_whole_image_is_a_box():
    assert Box(0.0, 0.0, 1.0, 1.0).x1 == 1.0


@pytest.mark.parametrize(("start", "stop"), [(3, 3), (4, 3), (-1, 2)])
def test_an_empty_span_is_refused(start, stop):
    with pytest.raises(RecordError, match="expected 0 <= start < stop"):
        Phrase(start, stop, (Box(0, 0, 1, 1),))


def test_a_phrase_without_boxes_is_refused():
    with pytest.raises(RecordError, match=r"expected one or more boxes for characters \[0, 2\), found none"):
        Phrase(0, 2, ())


def test_a_span_outside_its_text_is_refused():
    with pytest.raises(RecordError, match=r"expected a span within 3 characters, found \[0, 4\)"):
        Text("dog", (Phrase(0, 4, (Box(0, 0, 1, 1),)),))


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_empty_text_is_refused(text):
    with pytest.raises(RecordError, match="expected a text, found only white space"):
        Text(text)


def test_a_field_of_a_later_version_is_passed_over():
    assert Sample.from_json(SAMPLE.to_json().replace('"width":640', '"width":640,"depth":3')) == SAMPLE


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        b"\xff",
        "[" * 100_000,
        SAMPLE.to_json().replace('"width":640', '"width":"640"'),
        SAMPLE.to_json().replace('"height":480,', ""),
        SAMPLE.to_json().replace('"key":"coco-1"', '"key":1'),
        SAMPLE.to_json().replace('"width":640', '"width":true'),
        SAMPLE.to_json().replace('"licence":"CC BY 2.0"', '"licence":null'),
        SAMPLE.to_json().replace('"url":"http://127.0.0.1/1.jpg"', '"url":["x"]'),
        SAMPLE.to_json().replace(f'"sha256":"{"ab" * 32}"', '"sha256":7'),
        SAMPLE.to_json().replace('"ids":["coco:1","flickr:2"]', '"ids":[1]'),
        SAMPLE.to_json().replace('"ids":["coco:1","flickr:2"]', '"ids":"coco:1"'),
        SAMPLE.to_json().replace('"start":2', '"start":9'),
        SAMPLE.to_json().replace('"x1":0.3', '"x1":3.0'),
        SAMPLE.to_json().replace('"x1":0.3', '"x1":null'),
        SAMPLE.to_json().replace('"texts":[', '"texts":["dog",'),
    ],
)
def test_a_line_that_is_no_sample_is_refused(line):
    with pytest.raises(RecordError, match="expected"):
        Sample.from_json(line)


def signed(name):
    """The first 8 bytes of the digest, as two's complement by hand."""
    number = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16)
    return number - (number >> 63 << 64)


@pytest.mark.parametrize(
    ("ids", "preferred"),
    [
        (("coco:1", "flickr:2", "vg:3"), "coco:1"),
        (("vg:3", "flickr:2"), "flickr:2"),
        (("vg:3", "cc3m:4"), "vg:3"),
        (("cc3m:4",), "sha256:" + "ab" * 32),
        ((), "sha256:" + "ab" * 32),
    ],
)
def test_a_photograph_is_numbered_by_its_preferred_id(ids, preferred):
    assert image_id(dataclasses.replace(SAMPLE, ids=ids)) == signed(preferred)


def test_a_photograph_without_id_and_digest_has_no_number():
    with pytest.raises(RecordError, match="expected an id or a digest of the image, found neither: coco-1"):
        image_id(dataclasses.replace(SAMPLE, ids=(), sha256=""))
