"""The ids under which one photograph is known: `coco:391895`, `vg:2317`, `flickr:7866247804`.

One photograph is in several datasets, so its ids are what the hold-out rule goes by. An id is read from a name or a
URL only where the form leaves no doubt.
"""

import re
from urllib.parse import urlsplit

_COCO_2014 = re.compile(r"COCO_(?:train|val|test)2014_(\d{12})\.jpg")
_COCO_2017 = re.compile(r"(0{6}\d{6})\.jpg")
_FLICKR_HOST = re.compile(r"(?:[a-z0-9-]+\.)*static\.?flickr\.com|photos\d+\.flickr\.com")
_FLICKR_FILE = re.compile(r"(\d+)_[0-9a-f]+(?:_[a-z0-9]{1,2})?(?:_d)?\.(?:jpg|jpeg|png|gif)", re.IGNORECASE)
_COCO_HOSTS = ("images.cocodataset.org", "mscoco.org", "farm.cocodataset.org")
_COCO_PAGE = re.compile(r"/images/([1-9]\d*)")  # coco_url of the 2014 files: http://mscoco.org/images/42


def coco_id_of_name(name: str) -> int | None:
    """391895 for `COCO_train2014_000000391895.jpg` and `000000391895.jpg`, else None."""
    match = _COCO_2014.fullmatch(name) or _COCO_2017.fullmatch(name)
    return int(match[1]) or None if match else None


def coco_names(id: int) -> tuple[str, ...]:
    """The file names of one COCO photograph: 2017's first, since its zips hold every one of 2014's."""
    return (f"{id:012d}.jpg", f"COCO_train2014_{id:012d}.jpg", f"COCO_val2014_{id:012d}.jpg")


def ids_of_url(url: str) -> tuple[str, ...]:
    """`flickr:4385058960` for `http://static.flickr.com/2723/4385058960_b0f291553e.jpg`; `coco:` likewise; else ()."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").lower()
    except ValueError:
        return ()
    name = parts.path.rpartition("/")[2]
    if _FLICKR_HOST.fullmatch(host):
        match = _FLICKR_FILE.fullmatch(name)
        return (f"flickr:{int(match[1])}",) if match and int(match[1]) else ()
    if host in _COCO_HOSTS or "/images.cocodataset.org/" in parts.path:  # the latter on Amazon's own hosts
        page = _COCO_PAGE.fullmatch(parts.path)
        id = int(page[1]) if page else coco_id_of_name(name)
        return (f"coco:{id}",) if id is not None else ()
    return ()
