#!/usr/bin/env python3
"""Speed of large matrix products by cuBLAS, through PyTorch: the peak that prefill stands beside. JSON, operations a second."""

import json
import statistics
import sys

SIDE = 8192
ROUNDS = 9


def speed(torch, dtype):
    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.float32).to(dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    seconds = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        a @ b
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1000)
    return 2 * SIDE**3 / statistics.median(seconds)


def main():
    try:
        import torch
    except ImportError as error:
        sys.exit(str(error))
    if not torch.cuda.is_available():
        sys.exit("no CUDA device for PyTorch")
    kinds = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "device": torch.cuda.get_device_name(0),
                "side": SIDE,
                "flops": {name: speed(torch, dtype) for name, dtype in kinds.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
