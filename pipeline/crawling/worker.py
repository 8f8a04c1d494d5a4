"""What runs in a crawl's worker processes: img2dataset's downloader, with our opener before it and our files behind it.

img2dataset's parts are put together here rather than by its `download`, which would take over Ctrl-C, start a process
for Weights & Biases, decode every image, write two files for each, and leave no place for `pipeline/crawling/opener.py`.
"""

import contextlib
import io
import json
import os
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitgen.disk import room_for
from bitgen.pixels import DecodeError, PixelsError, size
from pipeline.crawling.crawled import SHARD_DIGITS, settle
from pipeline.crawling.manners import Manners
from pipeline.crawling.opener import PoliteOpener

Shard = tuple[int, str]
"""Its number in its round, and the Arrow file that holds its URLs in a column `url`."""
QUIET = {"NO_ALBUMENTATIONS_UPDATE": "1"}
"""For the environment before img2dataset is imported: it imports albumentations, which asks the network for updates."""
_openers: dict[Manners, PoliteOpener] = {}
"""Of this process: one, kept from shard to shard with its connections and what it knows of hosts."""


@dataclass(frozen=True)
class ShardWorker:
    """A shard's URLs become files and rows. Can be sent to another process, or another machine."""

    round_: Path
    """Absolute."""
    manners: Manners
    max_pixels: int
    threads: int
    per_shard: int
    """Of every shard of the round but the last: the keys of images depend on it."""

    def __call__(self, shard: Shard) -> tuple[bool, Shard]:
        """Asks for every URL of a shard. Raises `OSError`, `FullDiskError` among them, where files cannot be written."""
        os.environ.update(QUIET)
        from img2dataset.downloader import Downloader

        opener = self._opener()
        downloader = Downloader(
            sample_writer_class=lambda *given: ImageFiles(opener, *given),
            resizer=KeepBytes(self.max_pixels),
            thread_count=self.threads,
            save_caption=False,
            extract_exif=False,
            output_folder=str(self.round_),
            column_list=["url"],
            timeout=self.manners.timeout_s,
            number_sample_per_shard=self.per_shard,
            oom_shard_count=SHARD_DIGITS,
            compute_hash=None,
            verify_hash_type=None,
            encode_format="jpg",
            retries=0,  # the opener tries again, and only where that can help
            user_agent_token=None,  # likewise: it says who is asking,
            disallowed_header_directives=None,  # and looks for opt-outs before the body comes
        )
        with contextlib.redirect_stdout(sys.stderr):
            downloader.download_shard(shard)
        (self.round_ / f"{shard[0]:0{SHARD_DIGITS}d}_stats.json").unlink()  # img2dataset's; the table says more
        return True, shard

    def _opener(self) -> PoliteOpener:
        if self.manners not in _openers or _openers[self.manners].stopped:
            _openers.clear()
            _openers[self.manners] = PoliteOpener(self.manners)
        urllib.request.install_opener(_openers[self.manners])
        return _openers[self.manners]


@dataclass(frozen=True)
class KeepBytes:
    """In the place of img2dataset's resizer: bytes as they came, when their header is an image's of a fair size.

    Pixels are not decoded: that is the build's.
    """

    max_pixels: int

    def __call__(self, img_stream: io.BytesIO, _boxes: object = None) -> tuple[Any, ...]:
        """(bytes, width, height, width, height, None), or five times None and the reason."""
        # Here, as with img2dataset above: both import torch, by way of webdataset, for which a crawl's parent has no use.
        from shards.format import ShardError, image_extension

        image = img_stream.getvalue()
        try:
            image_extension(image)
            width, height = size(image, self.max_pixels)
        except ShardError as error:
            return (None,) * 5 + (f"unknown_format: {error}",)
        except PixelsError as error:
            return (None,) * 5 + (f"too_large: {error}",)
        except DecodeError as error:
            return (None,) * 5 + (f"decode_error: {error}",)
        return image, width, height, width, height, None


class ImageFiles:
    """In the place of img2dataset's sample writer: one file an image, and a line in the shard's journal for every row.

    A line is written when its image is whole. What fails to be written ends the shard: no more is asked for, and
    `close` raises it.
    """

    def __init__(
        self, opener: PoliteOpener, shard_id: int, output_folder: str, _caption: bool, _digits: int, *_: object
    ) -> None:
        """The arguments after the first are img2dataset's."""
        self._opener = opener
        self._round, self._shard = Path(output_folder), f"{shard_id:0{SHARD_DIGITS}d}"
        self._images = os.path.join(output_folder, self._shard)
        os.makedirs(self._images, exist_ok=True)
        # A line at a time, so that no more is lost with the process than what it is at.
        self._journal = (self._round / f"{self._shard}.jsonl").open("w", buffering=1, encoding="utf-8")
        self._failed: OSError | None = None

    def write(self, img_str: bytes | None, key: str, _caption: object, meta: dict[str, Any]) -> None:
        """One row, with its image's bytes where it has one."""
        if self._failed is not None:
            return
        row = {name: meta[name] for name in ("url", "key", "status", "error_message")}
        try:
            with room_for(self._round):
                if img_str is not None:
                    with open(os.path.join(self._images, f"{key}.jpg"), "wb", buffering=0) as file:
                        _write_all(file, img_str)
                self._journal.write(json.dumps(row | {"size_bytes": len(img_str or b"")}) + "\n")
        except OSError as error:
            self._failed = error
            self._opener.stop(str(error))

    def close(self) -> None:
        """The journal becomes a table. Raises `OSError` where that, or anything before it, cannot be written."""
        try:
            self._journal.close()
        except OSError as error:
            self._failed = self._failed or error
        if self._failed is not None:
            raise self._failed
        settle(self._round, self._shard)


def _write_all(file: io.FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
