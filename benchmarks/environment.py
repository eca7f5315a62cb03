"""What the machine is, and what it reaches: versions, memory, the largest matrix product and copy.

python benchmarks/environment.py --json benchmarks/results/FILE.json
"""

import importlib.metadata

import common
import torch

PACKAGES = ("torch", "lightning", "transformers", "peft", "triton", "flash-attn", "liger-kernel", "bitsandbytes")


def version(package: str) -> str | None:
    """Of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Look, print, and write the figures."""
    arguments = common.parser(__doc__).parse_args()
    dtype = getattr(torch, arguments.dtype)
    record = common.record("environment", arguments)
    record["packages"] = {package: version(package) for package in PACKAGES}
    record["matrix_peak"] = common.matrix_peak(arguments.device, dtype)
    record["bandwidth"] = common.bandwidth(arguments.device)
    if arguments.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        record["gpu"] = {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "capability": list(torch.cuda.get_device_capability()),
            "cuda": torch.version.cuda,
            "bfloat16": torch.cuda.is_bf16_supported(),
        }
        print(f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    print(f"matrix product {record['matrix_peak'] / 1e12:.2f} TFLOP/s, copy {record['bandwidth'] / 1e9:.0f} GB/s")
    common.save(record, arguments)


if __name__ == "__main__":
    main()
