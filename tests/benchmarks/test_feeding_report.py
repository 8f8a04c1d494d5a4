from tests.benchmarks import feeding_report


def test_a_gpu_that_takes_more_images_needs_more_cores():
    # 400 of 1,000 10^12 operations a second, 100 10^9 of them an image: 4,000 images, of 2 ms each.
    assert feeding_report.cores(100.0, 2.0, 1000.0, 0.4) == (4000.0, 8.0)


def test_the_page_has_a_row_for_every_step():
    steps = {"medians": {name: {"gflop_per_image": 98.9} for name in feeding_report.STEPS}}
    page = list(feeding_report.lines(steps, {"medians": {"ours": {"cpu_ms_per_image": 0.5}}}))
    rows = [line for line in page if "98.9" in line]
    assert len(rows) == 3
    assert rows[0].endswith("| 4,000 | 2.0 | 10,000 | 5.0 |")
