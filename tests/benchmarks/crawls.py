"""One crawl of a list of URLs, ours or img2dataset's own, as a process to be timed.

    python -m tests.benchmarks.crawls ours|img2dataset URLS FOLDER PROCESSES THREADS PER_SHARD

URLS is a Parquet file with a column `url`. Both keep the bytes as they came, in files, and ask as many at a time.
"""

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq


def ours(urls: Path, folder: Path, processes: int, threads: int, per_shard: int) -> None:
    """`pipeline.crawl.crawl`, allowed to ask one local server, and that as often as img2dataset does."""
    from pipeline.crawl import CrawlSettings, crawl
    from pipeline.crawling.opener import Manners

    wanted = pq.read_table(urls).column("url").to_pylist()
    manners = Manners(private=(urlsplit(wanted[0]).netloc,), per_host=threads)
    crawl(wanted, folder, CrawlSettings(manners, processes=processes, threads=threads, per_shard=per_shard))


def img2dataset(urls: Path, folder: Path, processes: int, threads: int, per_shard: int) -> None:
    """img2dataset's `download` without re-encoding. What ours leaves to the build, digests and EXIF, is off here too.

    Source: https://github.com/rom1504/img2dataset#api
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the network for updates
    from img2dataset import download

    download(
        url_list=str(urls),
        output_folder=str(folder),
        input_format="parquet",
        url_col="url",
        output_format="files",
        disable_all_reencoding=True,
        compute_hash=None,
        extract_exif=False,
        processes_count=processes,
        thread_count=threads,
        number_sample_per_shard=per_shard,
    )


if __name__ == "__main__":
    contestant = {"ours": ours, "img2dataset": img2dataset}[sys.argv[1]]
    contestant(Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:]))
