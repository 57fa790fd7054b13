"""Dynamic quantization: activations as INT8 for graphs whose weights are INT8 or INT4.

OpenVINO's CPU plugin multiplies compressed weights with activations that it quantizes in groups
while it runs, where the processor multiplies 8-bit integers (VNNI, AMX). That is faster, and a
vector then depends a little on the rest of its batch (measured on Zen 4: cosine .99985 to the same
text alone). OpenVINO's default differs by processor, so that here it is always set on purpose.
"""

from __future__ import annotations

from pathlib import Path

from multimodal_embedding_serving.settings import Settings

QUANTIZATION_GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
GROUP_SIZE = 32
"""Values of an activation that share a scale: OpenVINO's default on CPUs with VNNI."""
COMPRESSED = ("int8-weights", "int4-weights")
"""Stored precisions whose graphs can be quantized dynamically."""
INT8_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16",
                "amx_bf16", "amx_int8", "amx_fp16")  # fmt: skip
"""Those that decide in which arithmetic OpenVINO computes, as Linux spells them."""


def list_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The instruction sets of this machine's CPU, of those that change arithmetic."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return tuple(name for name in INSTRUCTIONS if name in flags)


def multiplies_int8(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's CPU has instructions for products of 8-bit integers."""
    return any(name in INT8_INSTRUCTIONS for name in list_instructions(cpuinfo))


def group_size(settings: Settings) -> int:
    """The group size for settings whose form is decided; 0 is exact, as `auto` is until then."""
    return GROUP_SIZE if settings.dynamic_quantization == "on" else 0
