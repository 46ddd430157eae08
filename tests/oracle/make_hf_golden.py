#!/usr/bin/env python3
"""Tiny Hugging Face directories with random weights, and the logits that transformers computes from them in float64:
what the loader and the engine are held against, family by family. Needs torch and transformers; the tests need neither.

    make_hf_golden.py tests/runtime/data/hf tests/runtime/data/golden_tokens.txt

Each NAME/ holds config.json, the weights and logits.npy: float32 rows 19, 39, ... of the tokens. A variant that shares
its weights with another has no weights of its own, and `weights` names the directory that has them.
"""
import json
import pathlib
import re
import sys

import numpy as np
import torch
import transformers

STRIDE = 20
SMALL = dict(hidden_size=40, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             head_dim=16, vocab_size=320, max_position_embeddings=1024)
LLAMA3 = dict(rope_type="llama3", rope_theta=50000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=128)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=256)
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=2.5)
LONG = dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=256,
            short_factor=[1.0 + 0.05 * i for i in range(6)], long_factor=[1.0 + 0.4 * i for i in range(6)],
            partial_rotary_factor=0.75)

# name: configuration class, its arguments, type of the stored weights, bytes of a file, name whose weights it shares
MODELS = {
    "llama": ("LlamaConfig", dict(SMALL, rms_norm_eps=1e-5), "float32", None, None),
    "llama-llama3": ("LlamaConfig", dict(SMALL, rms_norm_eps=1e-5, rope_parameters=LLAMA3), None, None, "llama"),
    "llama-yarn": ("LlamaConfig", dict(SMALL, rms_norm_eps=1e-5, rope_parameters=YARN), None, None, "llama"),
    "llama-linear": ("LlamaConfig", dict(SMALL, rms_norm_eps=1e-5, rope_parameters=LINEAR), None, None, "llama"),
    "mistral": ("MistralConfig", dict(SMALL, sliding_window=100, tie_word_embeddings=True), "bfloat16", "60KB", None),
    "qwen2": ("Qwen2Config", dict(SMALL, head_dim=16, hidden_size=64), "float16", None, None),
    "qwen3": ("Qwen3Config", dict(SMALL, num_key_value_heads=4, tie_word_embeddings=True), "float32", None, None),
    "phi3": ("Phi3Config", dict(SMALL, head_dim=16, hidden_size=64, sliding_window=90, pad_token_id=0,
                                original_max_position_embeddings=256, rope_parameters=LONG), "float32", None, None),
    "gemma3": ("Gemma3TextConfig", dict(SMALL, num_hidden_layers=7, sliding_window=70, query_pre_attn_scalar=24,
                                        hidden_size=24, intermediate_size=40), "float32", None, None),
    # Normalised and not, all layers of experts and a dense one between.
    "qwen3moe": ("Qwen3MoeConfig", dict(SMALL, num_key_value_heads=4, num_experts=7, num_experts_per_tok=3,
                                        moe_intermediate_size=20, norm_topk_prob=True, tie_word_embeddings=True), "float32", None, None),
    "qwen3moe-sparse": ("Qwen3MoeConfig", dict(SMALL, hidden_size=32, num_experts=5, num_experts_per_tok=2,
                                               moe_intermediate_size=20, norm_topk_prob=False, mlp_only_layers=[1]),
                        "bfloat16", None, None),
    "mixtral": ("MixtralConfig", dict(SMALL, num_local_experts=4, num_experts_per_tok=2, intermediate_size=28,
                                      sliding_window=None), "float32", None, None),
    # A router so nearly tied at one token that keys and values in half precision choose another expert there.
    "mixtral-close": ("MixtralConfig", dict(SMALL, num_hidden_layers=2, hidden_size=24, num_local_experts=6,
                                            num_experts_per_tok=2, intermediate_size=20, sliding_window=None),
                      "float32", None, None),
    "opt": ("OPTConfig", dict(hidden_size=48, ffn_dim=72, num_hidden_layers=2, num_attention_heads=3, vocab_size=320,
                              max_position_embeddings=640, word_embed_proj_dim=48), "float32", None, None),
}


SEEDS = {"mixtral-close": 48}  # found by search; of the others the name is the seed


def save_random(model, name, out, dtype, shard):
    torch.manual_seed(SEEDS.get(name, sum(name.encode())))
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            vector = tensor.dim() == 1
            tensor.normal_(0.0, 0.3 if vector else 1.2 / tensor.shape[-1] ** 0.5)
            if vector and "bias" not in key and name != "gemma3":
                tensor += 1.0
    model.to(dtype).save_pretrained(out, max_shard_size=shard or "1GB")
    (out / "generation_config.json").unlink(missing_ok=True)


def make(name, tokens, folder):
    kind, arguments, dtype, shard, shared = MODELS[name]
    config = getattr(transformers, kind)(attn_implementation="eager", experts_implementation="eager", use_cache=False, **arguments)
    out = folder / name
    out.mkdir(parents=True, exist_ok=True)
    if shared:
        config.save_pretrained(out)
        (out / "weights").write_text(shared + "\n")
    else:
        save_random(transformers.AutoModelForCausalLM.from_config(config), name, out, getattr(torch, dtype), shard)
    # From the files: a model that is converted in memory has its tables of angles rounded too.
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / (shared or name), config=config,
                                                              dtype=torch.float32)
    with torch.no_grad():
        logits = model.double()(torch.tensor([tokens])).logits[0]
    np.save(out / "logits.npy", logits[STRIDE - 1::STRIDE].float().numpy())
    facts = json.loads((out / "config.json").read_text())
    print(name, facts["model_type"], sum(f.stat().st_size for f in out.iterdir()), "bytes")


def main():
    folder, tokens = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text()
    tokens = [int(token) for token in re.split(r"[,\s]+", tokens.strip())]
    for name in MODELS:
        make(name, tokens, folder)


if __name__ == "__main__":
    main()
