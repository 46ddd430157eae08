#!/usr/bin/env python3
"""Speed of transformers + accelerate with a Llama of random weights that does not fit the GPU: max_memory says how much of it
lies there, the rest in host memory (and, with --disk-dir, on disk). JSON on standard output.

    accelerate_speed.py --gpu-bytes N --cpu-bytes N [--disk-dir DIR] [-p 128] [-n 8] [--layers 32 --hidden 4096 ...]
"""

import argparse
import inspect
import json
import statistics
import sys
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu-bytes", type=int, required=True, help="0: the CPU computes")
    parser.add_argument("--cpu-bytes", type=int, required=True)
    parser.add_argument("--disk-dir", help="what fits neither goes here")
    parser.add_argument("-p", "--prompt", type=int, default=128)
    parser.add_argument("-n", "--gen", type=int, default=8)
    for name, value in (
        ("layers", 32),
        ("hidden", 4096),
        ("heads", 32),
        ("kv-heads", 32),
        ("ffn", 11008),
        ("vocab", 32000),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def placed_model(args, torch, transformers, accelerate):
    config = transformers.LlamaConfig(
        num_hidden_layers=args.layers,
        hidden_size=args.hidden,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        intermediate_size=args.ffn,
        vocab_size=args.vocab,
        tie_word_embeddings=False,
    )
    with accelerate.init_empty_weights():
        model = transformers.AutoModelForCausalLM.from_config(config).to(torch.float16)
    most = {**({0: args.gpu_bytes} if args.gpu_bytes else {}), "cpu": args.cpu_bytes}  # the first place is filled first
    placing = accelerate.infer_auto_device_map(
        model, max_memory=most, no_split_module_classes=["LlamaDecoderLayer"], dtype=torch.float16
    )
    maker = "cuda" if args.gpu_bytes else "cpu"
    torch.manual_seed(1)
    for name, parameter in list(model.named_parameters()):
        value = torch.empty(parameter.shape, dtype=torch.float16, device=maker).normal_(0, 0.02)
        accelerate.utils.set_module_tensor_to_device(model, name, "cpu", value=value.cpu(), dtype=torch.float16)
    if set(placing.values()) != {"cpu"}:
        model = accelerate.dispatch_model(model, placing, offload_dir=args.disk_dir)
    return model.eval(), placing


def main():
    args = arguments()
    try:
        import accelerate
        import torch
        import transformers
    except ImportError as error:
        sys.exit(str(error))
    if args.gpu_bytes and not torch.cuda.is_available():
        sys.exit("no CUDA device for PyTorch")
    device = "cuda" if args.gpu_bytes else "cpu"
    wait = torch.cuda.synchronize if args.gpu_bytes else lambda: None
    model, placing = placed_model(args, torch, transformers, accelerate)
    # Called so from some version on.
    cache = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    def step(ids, past):
        wait()
        begin = time.perf_counter()
        with torch.inference_mode():
            out = model(input_ids=ids, use_cache=True, **{cache: past})
        wait()
        return time.perf_counter() - begin, out

    ids = torch.randint(0, args.vocab, (1, args.prompt), device=device)
    step(ids[:, :4], None)
    prefill, out = step(ids, None)
    decode = []
    for _ in range(args.gen):
        seconds, out = step(out.logits[:, -1:].argmax(-1), out.past_key_values)
        decode.append(seconds)
    print(
        json.dumps(
            {
                "prefill": args.prompt / prefill,
                "decode": 1 / statistics.median(decode),
                "decode_seconds": decode,
                "gpu_peak_bytes": torch.cuda.max_memory_allocated() if args.gpu_bytes else 0,
                "modules": {str(place): list(placing.values()).count(place) for place in set(placing.values())},
                "versions": {module.__name__: module.__version__ for module in (torch, transformers, accelerate)},
            }
        )
    )


if __name__ == "__main__":
    main()
