"""Which addresses belong to the internet: a crawl asks no other."""

import ipaddress

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
"""What is given out of IPv6. Source: https://www.iana.org/assignments/ipv6-address-space"""
_EXAMPLES = ipaddress.ip_network("3fff::/20")
"""For documentation (RFC 9637); Python's `is_global` knows it only from 3.13 on."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet; addresses that carry another one inside are judged by that."""
    ip: _Ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inside = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inside is None and ip in _NAT64:
            inside = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inside is None and (ip not in _UNICAST or ip in _EXAMPLES):
            return False
        ip = inside or ip
    return ip.is_global and not ip.is_multicast
