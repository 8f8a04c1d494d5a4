"""Whether this machine's products of unsigned and signed bytes hold weights of 8 bits, or of 7 alone.

Without the instructions below, sums of two such products are cut to 16 bits: 2 x 255 x 127 does not fit there, 2 x 255 x 63 does.

Source: onnxruntime.ai/docs/performance/model-optimizations/quantization.html (U8S8 on x86 needs VNNI, or weights of 7 bits).
"""

import platform
import re
from pathlib import Path

DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "asimddp")
"""Linux's names of instructions that add four products of bytes in 32 bits: two of x86, one of ARM."""


def weight_bits() -> tuple[int, str]:
    """7 or 8 for the machine that this runs on, and why."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    return weight_bits_of(cpuinfo, platform.system(), platform.machine())


def weight_bits_of(cpuinfo: str, system: str, machine: str) -> tuple[int, str]:
    """7 or 8, and why.

    Args:
        cpuinfo: the text of Linux's /proc/cpuinfo; empty on another system.
        system, machine: as the module `platform` gives them.
    """
    cores = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    if cores:
        shared = set.intersection(*(set(core.split()) for core in cores))
        found = [name for name in DOT_PRODUCTS if name in shared]
        if found:
            return 8, f"this CPU has {' and '.join(found)}"
        return 7, f"this CPU has none of {', '.join(DOT_PRODUCTS)}"
    if system == "Darwin" and machine == "arm64":
        return 8, "every Apple processor has dot products of bytes"
    return 7, f"/proc/cpuinfo does not say what this CPU has ({system} {machine}), and 7 are right on any"
