import pytest

from pipeline.crawling.public import is_public


@pytest.mark.parametrize("ip", ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_public(ip: str) -> None:
    assert is_public(ip)


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::a00:1",
        "64:ff9b:1::7f00:1",
        "::ffff:0:127.0.0.1",
        "::127.0.0.1",
        "fec0::1",
        "5f00::1",
        "2001:db8::1",
        "3fff::1",
    ],
)
def test_any_other_address_is_not(ip: str) -> None:
    assert not is_public(ip)
