"""Weights of 7 bits where products of bytes would be cut, of 8 elsewhere; what is not known is taken as the former."""

import platform
import re
from pathlib import Path

import pytest

from bitgen.deploy.cpu import weight_bits, weight_bits_of

X86 = "processor\t: 0\nmodel name\t: a CPU, avx512_vnni inside\nflags\t\t: fpu avx2 {}\nbugs\t\t: none\n\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {}\nCPU part\t: 0xd08\n\n"


@pytest.mark.parametrize(
    ("cpuinfo", "system", "machine", "bits", "why"),
    [
        (X86.format("avx512_vnni avx_vnni"), "Linux", "x86_64", 8, "this CPU has avx512_vnni and avx_vnni"),
        (X86.format("avx_vnni"), "Linux", "x86_64", 8, "this CPU has avx_vnni"),
        (X86.format("avx512f"), "Linux", "x86_64", 7, "this CPU has none of avx512_vnni, avx_vnni, asimddp"),
        (X86.format("avx_vnni_int8"), "Linux", "x86_64", 7, "this CPU has none of"),
        (ARM.format("asimddp"), "Linux", "aarch64", 8, "this CPU has asimddp"),
        (ARM.format("crc32"), "Linux", "aarch64", 7, "this CPU has none of"),
        (ARM.format("asimddp") + ARM.format("crc32"), "Linux", "aarch64", 7, "this CPU has none of"),
        ("", "Darwin", "arm64", 8, "every Apple processor"),
        ("", "Darwin", "x86_64", 7, r"does not say what this CPU has \(Darwin x86_64\)"),
        ("", "Windows", "AMD64", 7, r"does not say what this CPU has \(Windows AMD64\)"),
        ("processor\t: 0\nhart\t: 1\n", "Linux", "riscv64", 7, r"does not say what this CPU has \(Linux riscv64\)"),
    ],
)
def test_bits_follow_what_every_core_has(cpuinfo: str, system: str, machine: str, bits: int, why: str) -> None:
    assert weight_bits_of(cpuinfo, system, machine)[0] == bits
    assert re.search(why, weight_bits_of(cpuinfo, system, machine)[1])


def test_this_machine_is_asked() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    said = cpuinfo.read_text() if cpuinfo.exists() else ""
    assert weight_bits() == weight_bits_of(said, platform.system(), platform.machine())
