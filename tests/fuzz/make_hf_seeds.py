#!/usr/bin/env python3
"""Writes the seeds of the fuzzer of Hugging Face model directories: make_hf_seeds.py tests/fuzz/corpus/hf_directory. Each is
config.json, a zero, the index (or nothing), a zero, and the weights (tests/fuzz/hf_directory_case.h). What the fuzzer found
lies beside them."""
import json
import pathlib
import struct
import sys

HIDDEN, HEAD, FFN, VOCAB, CONTEXT, EXPERTS = 8, 8, 8, 8, 16, 2
BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}
SMALL = {"hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": 1, "num_attention_heads": 1,
         "num_key_value_heads": 1, "head_dim": HEAD, "vocab_size": VOCAB, "max_position_embeddings": CONTEXT}


def safetensors(tensors, metadata=None, pad=8):
    """tensors: name -> (type, shape)."""
    header, at = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, (kind, shape) in tensors.items():
        size = BYTES[kind]
        for n in shape:
            size *= n
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return raw(json.dumps(header, separators=(",", ":")), at, pad)


def raw(header, data, pad=8, length=None):
    text = header.encode()
    text += b" " * (-len(text) % pad)
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def case(config, weights, index=b""):
    return json.dumps(config, separators=(",", ":")).encode() + b"\0" + index + b"\0" + weights


def attention(kind, biases=False, norms=False, fused=False):
    part = {}
    if fused:
        part["self_attn.qkv_proj.weight"] = (kind, [3 * HEAD, HIDDEN])
    else:
        part |= {f"self_attn.{p}_proj.weight": (kind, [HEAD, HIDDEN]) for p in "qkv"}
    if biases:
        part |= {f"self_attn.{p}_proj.bias": (kind, [HEAD]) for p in "qkv"}
    if norms:
        part |= {f"self_attn.{p}_norm.weight": (kind, [HEAD]) for p in "qk"}
    return part | {"self_attn.o_proj.weight": (kind, [HIDDEN, HEAD])}


def gated(kind, prefix="mlp.", names=("gate_proj", "up_proj", "down_proj")):
    shapes = ([FFN, HIDDEN], [FFN, HIDDEN], [HIDDEN, FFN])
    return {f"{prefix}{name}.weight": (kind, shape) for name, shape in zip(names, shapes)}


def experts(kind, prefix, names):
    part = {prefix + "gate.weight": (kind, [EXPERTS, HIDDEN])}
    for e in range(EXPERTS):
        part |= gated(kind, f"{prefix}experts.{e}.", names)
    return part


def model(kind, layer, norms=("input_layernorm", "post_attention_layernorm"), tied=False, layers=1):
    tensors = {"model.embed_tokens.weight": (kind, [VOCAB, HIDDEN])}
    for i in range(layers):
        tensors |= {f"model.layers.{i}.{name}": t for name, t in layer.items()}
        tensors |= {f"model.layers.{i}.{name}.weight": (kind, [HIDDEN]) for name in norms}
    tensors["model.norm.weight"] = (kind, [HIDDEN])
    return tensors if tied else tensors | {"lm_head.weight": (kind, [VOCAB, HIDDEN])}


def opt(kind):
    def both(name, out, inner=None):
        return {name + ".weight": (kind, [out] if inner is None else [out, inner]), name + ".bias": (kind, [out])}
    part = both("self_attn_layer_norm", HIDDEN) | both("final_layer_norm", HIDDEN) | both("fc1", FFN, HIDDEN)
    part |= both("fc2", HIDDEN, FFN)
    for p in ("q_proj", "k_proj", "v_proj", "out_proj"):
        part |= both("self_attn." + p, HIDDEN, HIDDEN)
    tensors = {"model.decoder.embed_tokens.weight": (kind, [VOCAB, HIDDEN]),
               "model.decoder.embed_positions.weight": (kind, [CONTEXT + 2, HIDDEN])}
    return tensors | {f"model.decoder.layers.0.{n}": t for n, t in part.items()} | both("model.decoder.final_layer_norm", HIDDEN)


def families():
    llama = {"model_type": "llama", "rms_norm_eps": 1e-5} | SMALL
    plain = model("F32", attention("F32") | gated("F32"))
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", [4]), "ids": ("I64", [1])}
    yield "llama", llama, safetensors(plain | buffers, {"format": "pt"})
    scalings = {
        "llama3": {"rope_type": "llama3", "rope_theta": 5e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 8},
        "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 32, "beta_slow": 1, "attention_factor": 1.1},
        "linear": {"type": "linear", "factor": 2.5}}
    half = safetensors(model("BF16", attention("BF16") | gated("BF16"), tied=True))
    for name, scaling in scalings.items():
        yield name, llama | {"rope_scaling": scaling, "tie_word_embeddings": True}, half
    window = {"model_type": "mistral", "sliding_window": 4, "tie_word_embeddings": True}
    yield "mistral", llama | window, half
    yield "qwen2", llama | {"model_type": "qwen2", "sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0}, \
        safetensors(model("F16", attention("F16", biases=True) | gated("F16")))
    yield "qwen3", llama | {"model_type": "qwen3"}, safetensors(model("F16", attention("F16", norms=True) | gated("F16")))
    fused = attention("F16", fused=True) | {"mlp.gate_up_proj.weight": ("F16", [2 * FFN, HIDDEN]),
                                            "mlp.down_proj.weight": ("F16", [HIDDEN, FFN])}
    long = {"type": "longrope", "short_factor": [1.0, 1.5, 2.0], "long_factor": [1.0, 2.0, 4.0]}
    yield "phi3", llama | {"model_type": "phi3", "rope_scaling": long, "partial_rotary_factor": 0.75,
                           "original_max_position_embeddings": 8}, safetensors(model("F16", fused))
    norms = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    gemma = {"model_type": "gemma3_text", "num_hidden_layers": 2, "sliding_window": 4, "query_pre_attn_scalar": 24,
             "hidden_activation": "gelu_pytorch_tanh", "layer_types": ["sliding_attention", "full_attention"],
             "rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}}
    part = attention("BF16", norms=True) | gated("BF16")
    yield "gemma3", llama | gemma, safetensors(model("BF16", part, norms, True, 2))
    inner = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": llama | gemma}
    text = {"language_model." + name: t for name, t in model("BF16", part, norms, True, 2).items()}
    yield "gemma3_inner", inner, safetensors(text)
    yield "opt", {"model_type": "opt", "ffn_dim": FFN, "word_embed_proj_dim": HIDDEN, "activation_function": "relu",
                  "do_layer_norm_before": True} | SMALL, safetensors(opt("F16"))
    mixed = {"model_type": "mixtral", "num_local_experts": EXPERTS, "num_experts_per_tok": 1}
    yield "mixtral", llama | mixed, \
        safetensors(model("F16", attention("F16") | experts("F16", "block_sparse_moe.", ("w1", "w3", "w2"))))
    moe = {"model_type": "qwen3_moe", "num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": FFN,
           "norm_topk_prob": True}
    yield "qwen3moe", llama | moe, safetensors(
        model("F16", attention("F16", norms=True) | experts("F16", "mlp.", ("gate_proj", "up_proj", "down_proj"))))


def shards():
    """Two of as many bytes, as the case cuts them."""
    tensors = model("F16", attention("F16") | gated("F16"))
    names = list(tensors)
    parts = [{n: tensors[n] for n in names[:6]}, {n: tensors[n] for n in names[6:]}]
    files = [safetensors(part) for part in parts]
    longest = max(len(file) for file in files)
    both = b""
    for file in files:  # the header is padded, so that data stays last
        length = struct.unpack("<Q", file[:8])[0]
        spaces = longest - len(file)
        both += struct.pack("<Q", length + spaces) + file[8:8 + length] + b" " * spaces + file[8 + length:]
    index = {"metadata": {"total_size": 1}, "weight_map": {
        name: f"model-{i + 1:05}-of-00002.safetensors" for i, part in enumerate(parts) for name in part}}
    return both, index


def lies():
    """Headers that say what is not so; what the loader makes of each is in tests/loader/safetensors_test.cpp."""
    def entry(kind, shape, begin, end, name="model.norm.weight"):
        return f'"{name}":{{"dtype":"{kind}","shape":{shape},"data_offsets":[{begin},{end}]}}'
    good = entry("F32", [8], 0, 32)
    yield "length", raw("{" + good + "}", 32, length=1 << 62)
    yield "overlap", raw("{" + good + "," + entry("F32", [8], 16, 48, "b.weight") + "}", 48)
    yield "type", raw("{" + entry("Q4_0", [8], 0, 32) + "}", 32)
    yield "overflow", raw("{" + entry("F32", [1 << 32, 1 << 32], 0, 0) + "}", 0)
    yield "zero_times_huge", raw("{" + entry("F32", [0, (1 << 64) - 1], 0, 0) + "}", 0)
    yield "twice", raw("{" + good + "," + good + "}", 32)
    yield "deep", raw('{"a":' + "[" * 2000, 0)
    yield "deep_metadata", raw('{"__metadata__":' + '{"a":' * 1000, 0)
    yield "metadata_list", raw('{"__metadata__":{"x":[1,2]},' + good + "}", 32)
    yield "metadata_objects", raw('{"__metadata__":[{},{"dtype":"F32"}]}', 0)
    yield "same_name", safetensors({"model.norm.weight": ("F16", [8]), "norm.weight": ("F16", [8])})


def configs():
    """Configurations that were copied or printed without an end."""
    deep = "[" * 2000 + "]" * 2000
    yield "text_config", '{"text_config":{"a":' + deep + "}}"
    yield "activation", '{"model_type":"llama","hidden_act":' + deep + "}"
    yield "layer_types", '{"model_type":"llama","sliding_window":4,"layer_types":[' + deep + "]}"
    yield "list", "[" * 5000


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)

    def write(name, data):
        (folder / f"seed_{name}.hf").write_bytes(data)

    for name, config, weights in families():
        write(name, case(config, weights))
    llama = {"model_type": "llama", "rms_norm_eps": 1e-5} | SMALL
    both, index = shards()
    write("shards", case(llama, both, json.dumps(index).encode()))
    write("shard_missing", case(llama, both, json.dumps(index).replace("00002-of", "00003-of").encode()))
    write("shard_above", case(llama, both, b'{"weight_map":{"a":"../model.safetensors"}}'))
    write("index_deep", case(llama, both, b'{"weight_map":{"a":' + b"[" * 2000 + b"]" * 2000 + b"}}"))
    for name, weights in lies():
        write("lie_" + name, case(llama, weights))
    for name, config in configs():
        write("config_" + name, config.encode() + b"\0\0" + raw("{}", 0))


if __name__ == "__main__":
    main()
