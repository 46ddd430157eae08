#!/usr/bin/env python3
"""Writes the seeds of the fuzzer of batch lines: make_batch_seeds.py FOLDER. What the fuzzer found lies beside them."""
import json
import pathlib
import sys


def line(body, url="/v1/chat/completions", custom_id="a", **more):
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body, **more})


def user(text):
    return [{"role": "user", "content": text}]


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}}
CALL = {"role": "assistant", "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]}

SEEDS = {
    "chats": "\n".join([
        line({"model": "m", "messages": user("Hi é"), "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": -3,
              "stop": ["\n", "x"], "logprobs": True, "top_logprobs": 3, "user": "u", "metadata": {"k": "v"}}),
        line({"messages": [{"role": "developer", "content": [{"type": "text", "text": "S"}, {"type": "text", "text": "T"}]},
                           *user("Q"), CALL, {"role": "tool", "tool_call_id": "1", "content": "2"}],
              "tools": [TOOL], "tool_choice": "auto", "chat_template_kwargs": {"enable_thinking": False}}, custom_id="b"),
    ]) + "\n",
    "completions": "\n".join([
        line({"prompt": "Once", "stop": "a", "logprobs": 2, "n": 1, "echo": False}, "/v1/completions"),
        line({"prompt": [1, 2, 3], "ignore_eos": True, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1},
             "/v1/completions", "b"),
        line({"prompt": [["x"]]}, "/v1/completions", "c"),
    ]) + "\n",
    "refused": "\n".join([
        line({"messages": user("x"), "n": 2}), line({"messages": user("x"), "foo": 1}), line({"messages": []}),
        line({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]}),
        line({"prompt": "x"}, "/v1/embeddings"), line({"prompt": "x", "temperature": 3}, "/v1/completions"),
        line({"prompt": "x", "max_tokens": 1e9}, "/v1/completions"), line({"prompt": ["a", "b"]}, "/v1/completions"),
        json.dumps({"method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}), "null", "{", "[1]",
    ]),
    "ends": "\ufeff" + line({"prompt": "x"}, "/v1/completions") + "\r\n\r\n  \t\n" + line({"prompt": "y"}, "/v1/completions"),
    "deep": "[" * 100 + "\n" + '{"a":' * 70 + "\n",
    "small_values": "[" + "[]," * 600 + "[]]\n" + "{" + ",".join(f'"{i}":0' for i in range(250)) + "}\n",
    "long": "x" * 5000 + "\n" + line({"prompt": "x"}, "/v1/completions"),
}

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    for name, text in SEEDS.items():
        (folder / f"seed_{name}.jsonl").write_bytes(text.encode())
    good = line({"prompt": "Q"}, "/v1/completions").encode()
    (folder / "seed_utf8.jsonl").write_bytes(good.replace(b"Q", b"\xff\xfe") + b"\n" + good.replace(b"Q", b"\\ud800") + b"\n")
