import pytest

from pipeline.annotations.ids import coco_id_of_name, coco_names, ids_of_url


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("COCO_train2014_000000520199.jpg", 520199),
        ("COCO_val2014_000000000042.jpg", 42),
        ("000000520199.jpg", 520199),
    ],
)
def test_a_coco_name_gives_its_id(name: str, id: int) -> None:
    assert coco_id_of_name(name) == id


@pytest.mark.parametrize("name", ["520199.jpg", "000000520199.png", "x000000520199.jpg", "000000000000.jpg"])
def test_any_other_name_gives_none(name: str) -> None:
    assert coco_id_of_name(name) is None


def test_a_coco_photograph_is_looked_for_under_its_2017_name_first() -> None:
    assert coco_names(9)[:2] == ("000000000009.jpg", "COCO_train2014_000000000009.jpg")


@pytest.mark.parametrize(
    "url",
    [
        "http://static.flickr.com/2723/4385058960_b0f291553e.jpg",
        "http://farm9.staticflickr.com/8035/4385058960_9c41dc1666_z.jpg",
        "https://live.staticflickr.com/65535/4385058960_9c41dc1666_b.jpg",
        "http://farm3.static.flickr.com/2582/4385058960_f5b20f8b1a_o.png",
        "https://C1.StaticFlickr.com/5/4083/4385058960_dfb5f186f4_b.jpg?zz=1",
    ],
)
def test_a_flickr_url_gives_the_photo_id(url: str) -> None:
    assert ids_of_url(url) == ("flickr:4385058960",)


def test_a_coco_url_gives_the_coco_id() -> None:
    assert ids_of_url("http://images.cocodataset.org/train2017/000000391895.jpg") == ("coco:391895",)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/4385058960_b0f291553e.jpg",
        "http://notstatic.flickr.com.example.org/4385058960_b0f291553e.jpg",
        "http://static.flickr.com/2723/buddyicon.jpg",
        "http://[broken/4385058960_b0f291553e.jpg",
        "",
    ],
)
def test_any_other_url_gives_none(url: str) -> None:
    assert ids_of_url(url) == ()
