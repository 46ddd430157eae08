#!/usr/bin/env python3
"""What transformers makes of config.json files that leave keys out, or have the older or the newer ones: what the reader
of Hugging Face directories is held against. Needs transformers and torch (no weights are made); the tests need neither.

    make_config_golden.py tests/loader/data/hf_configs.json
"""
import copy
import json
import sys

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

SIZES = dict(num_hidden_layers=4, hidden_size=512, intermediate_size=768)
NESTED = dict(full_attention=dict(rope_type="linear", factor=4.0, rope_theta=5e5),
              sliding_attention=dict(rope_type="default", rope_theta=2e4))
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=512)


PART = dict(rope_type="default", partial_rotary_factor=0.5)


def phi(kind, inner={}, **more):
    rope = dict(type=kind, short_factor=[1.0] * 32, long_factor=[2.0] * 32, **inner)
    return dict(num_attention_heads=8, max_position_embeddings=131072, rope_scaling=rope, **more)


CASES = {
    "llama": ("llama", {}),
    "llama, a window": ("llama", dict(sliding_window=100)),
    "llama, null": ("llama", dict(num_key_value_heads=None, head_dim=None, rope_scaling=None)),
    "llama, heads": ("llama", dict(num_attention_heads=16, num_key_value_heads=2, head_dim=24)),
    "llama, older rotation": ("llama", dict(rope_theta=5e5, rope_scaling=dict(type="linear", factor=2.0))),
    "llama, newer rotation": ("llama", dict(rope_parameters=LLAMA3)),
    "llama, both rotations": ("llama", dict(rope_theta=3e4, rope_scaling=dict(rope_type="linear", factor=2.0),
                                            rope_parameters=dict(rope_type="linear", factor=3.0))),
    "llama, empty rotation": ("llama", dict(rope_theta=3e4, rope_scaling={})),
    "llama, yarn": ("llama", dict(rope_scaling=dict(rope_type="yarn", factor=4.0))),
    "llama, contexts": ("llama", dict(original_max_position_embeddings=256, rope_parameters=LLAMA3)),
    "llama, yarn, contexts": ("llama", dict(original_max_position_embeddings=256, rope_scaling=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=512))),
    "llama, biases": ("llama", dict(attention_bias=True, mlp_bias=True)),
    "llama, a bias": ("llama", dict(attention_bias=False, mlp_bias=True)),
    "llama, a part of the head": ("llama", dict(partial_rotary_factor=0.5)),
    "mistral": ("mistral", {}),
    "mistral, biases": ("mistral", dict(attention_bias=True, mlp_bias=True)),
    "mistral, a part of the head": ("mistral", dict(rope_parameters=dict(PART, rope_theta=1e4))),
    "mistral, null": ("mistral", dict(sliding_window=None, head_dim=None)),
    "mistral, a window": ("mistral", dict(sliding_window=100, rope_theta=1e6)),
    "mixtral": ("mixtral", {}),
    "mixtral, a window": ("mixtral", dict(sliding_window=64, num_local_experts=4)),
    "mixtral, the other name": ("mixtral", dict(num_experts=4, num_experts_per_tok=1)),
    "qwen2": ("qwen2", {}),
    "qwen2, biases": ("qwen2", dict(attention_bias=False, mlp_bias=True)),
    "qwen2, a part of the head": ("qwen2", dict(rope_scaling=PART)),
    "qwen2, a window": ("qwen2", dict(sliding_window=64)),
    "qwen2, a window asked for": ("qwen2", dict(use_sliding_window=True, max_window_layers=1)),
    "qwen2, layers": ("qwen2", dict(use_sliding_window=True, sliding_window=32, layer_types=[
        "sliding_attention", "full_attention", "sliding_attention", "full_attention"])),
    "qwen3": ("qwen3", {}),
    "qwen3, biases": ("qwen3", dict(attention_bias=True, mlp_bias=True)),
    "qwen3, a part of the head": ("qwen3", dict(rope_parameters=dict(PART, rope_theta=1e4))),
    "qwen3, null": ("qwen3", dict(use_sliding_window=True, sliding_window=None)),
    "qwen3_moe": ("qwen3_moe", {}),
    "qwen3_moe, biases": ("qwen3_moe", dict(attention_bias=True, partial_rotary_factor=0.5)),
    "qwen3_moe, a window": ("qwen3_moe", dict(use_sliding_window=True, num_experts=7, norm_topk_prob=True)),
    "phi3": ("phi3", {}),
    "phi3, longrope": ("phi3", phi("longrope", original_max_position_embeddings=2048)),
    "phi3, a context among": ("phi3", phi("longrope", inner=dict(original_max_position_embeddings=2048))),
    "phi3, contexts": ("phi3", phi("su", inner=dict(original_max_position_embeddings=1024),
                                   original_max_position_embeddings=2048)),
    "phi3, a part of the head": ("phi3", dict(partial_rotary_factor=0.75, attention_bias=True)),
    "phi3, yarn": ("phi3", phi("yarn", sliding_window=2047)),
    "gemma3": ("gemma3_text", {}),
    "gemma3, biases": ("gemma3_text", dict(attention_bias=True, mlp_bias=True, partial_rotary_factor=0.5)),
    "gemma3, a part of the head": ("gemma3_text", dict(rope_parameters=dict(
        full_attention=PART, sliding_attention=dict(PART)))),
    "gemma3, of the 4b": ("gemma3_text", dict(rope_scaling=dict(factor=8.0, rope_type="linear"), sliding_window=1024)),
    "gemma3, older": ("gemma3_text", dict(sliding_window_pattern=2, rope_theta=5e5, rope_local_base_freq=3e4,
                                          query_pre_attn_scalar=168)),
    "gemma3, newer": ("gemma3_text", dict(rope_parameters=NESTED, layer_types=["full_attention"] + 3 * [
        "sliding_attention"])),
    "gemma3, both": ("gemma3_text", dict(rope_parameters=NESTED, rope_scaling=dict(rope_type="linear", factor=9.0))),
    "opt": ("opt", dict(ffn_dim=768, num_attention_heads=8)),
}

# As the modeling files have it: which configuration has a window in which layers.
EVERYWHERE = {"mistral", "mixtral", "phi3", "qwen3_moe"}
BY_LAYER = {"qwen2", "qwen3", "gemma3_text"}


def windows(config):
    if config.model_type in EVERYWHERE:
        return [config.sliding_window or 0] * config.num_hidden_layers
    if config.model_type not in BY_LAYER:
        return [0] * config.num_hidden_layers
    return [config.sliding_window if kind == "sliding_attention" else 0 for kind in config.layer_types]


# Of what is computed with: how much of a head is rotated, and which matrices of a layer have a bias.
def modelled(config):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = [name.split(".layers.0.")[1] for name, _ in model.named_parameters() if ".layers.0." in name]
    found = dict(biases=sorted(name.removesuffix(".bias") for name in names
                               if name.endswith(".bias") and "norm" not in name))
    rope = getattr(model.model, "rotary_emb", None)
    if rope is not None:
        angles, *_ = [table for name, table in rope.named_buffers() if name.endswith("inv_freq")]
        found["rotated"] = 2 * angles.shape[0]
    return found


def facts(config):
    computed = modelled(config)
    if getattr(config, "rope_parameters", None):
        config.standardize_rope_params()  # once more, as where the angles are computed
    heads = config.num_attention_heads
    rope = getattr(config, "rope_parameters", None) or {}
    local = rope.get("sliding_attention", {})
    rope = rope.get("full_attention", rope)
    found = dict(computed, layers=config.num_hidden_layers, hidden=config.hidden_size,
                 ffn=getattr(config, "ffn_dim", None) or config.intermediate_size, heads=heads, kv_heads=getattr(config, "num_key_value_heads", heads),
                 head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
                 context=config.max_position_embeddings, tied=config.tie_word_embeddings, windows=windows(config))
    for name, value in dict(eps=getattr(config, "rms_norm_eps", None), theta=rope.get("rope_theta"),
                            local_theta=local.get("rope_theta"), rope_type=rope.get("rope_type"),
                            factor=rope.get("factor"), original=rope.get("original_max_position_embeddings"),
                            experts=getattr(config, "num_local_experts", None),
                            experts_used=getattr(config, "num_experts_per_tok", None),
                            expert_ffn=getattr(config, "moe_intermediate_size", None),
                            norm_topk=getattr(config, "norm_topk_prob", None),
                            query_scalar=getattr(config, "query_pre_attn_scalar", None)).items():
        if value is not None:
            found[name] = value
    return found


def main():
    golden = {}
    for kind in sorted({kind for kind, _ in CASES.values()}):  # part of a larger file, which leaves out every default
        part = dict(model_type=kind)
        golden[kind + ", a part"] = dict(config=dict(model_type="larger", text_config=part),
                                         facts=facts(CONFIG_MAPPING[kind].from_dict(dict(part))))
    for name, (kind, more) in CASES.items():
        file = dict(SIZES, model_type=kind, **more)
        config = CONFIG_MAPPING[kind].from_dict(copy.deepcopy(file))
        golden[name] = dict(config=file, facts=facts(config))
    lines = [f"{json.dumps(name)}: {json.dumps(golden[name], sort_keys=True)}" for name in sorted(golden)]
    with open(sys.argv[1], "w") as out:
        out.write("{\n" + ",\n".join(lines) + "\n}\n")


main()
