"""Conversations that chat templates are rendered with, and jinja2 as Hugging Face's transformers sets it up."""
import json

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a place, \"now\" & <here>.",
    "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "A city: \u00dcber, \u6771\u4eac"},
        "days": {"type": "integer", "minimum": 1, "default": 3},
        "unit": {"type": "string", "enum": ["C", "F"]}}, "required": ["place"]}}}]
CALL = {"id": "call12345", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Bergen", "days": 2, "exact": True, "note": None}}}
SYSTEM = {"role": "system", "content": "You answer briefly."}
USER = {"role": "user", "content": "  What's the weather in Bergen?\n"}
ANSWER = {"role": "assistant", "content": "Rain, as always. "}
AGAIN = {"role": "user", "content": "And \"tomorrow\"?"}
THOUGHT = {"role": "assistant", "content": "<think>\nHm, Bergen.\n</think>\n\nRain."}
REASONED = {"role": "assistant", "content": "Rain.", "reasoning_content": "Hm, Bergen."}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": "{\"rain\": 0.9}"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": " this?"}]}

CONVERSATIONS = [
    [USER], [SYSTEM, USER], [USER, ANSWER, AGAIN], [SYSTEM, USER, ANSWER, AGAIN], [SYSTEM, USER, THOUGHT, AGAIN],
    [USER, REASONED, AGAIN], [USER, CALLS, RESULT], [SYSTEM, USER, CALLS, RESULT, ANSWER, AGAIN], [PARTS], [USER, ANSWER], [],
    [USER, USER], [SYSTEM, USER, CALLS, RESULT, RESULT, ANSWER],
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def cases():
    for messages in CONVERSATIONS:
        for tools in (None, TOOLS):
            for prompt in (True, False):
                variables = {"messages": messages, "add_generation_prompt": prompt} | SPECIAL
                yield variables | ({"tools": tools} if tools else {})
    yield {"messages": [SYSTEM, USER], "add_generation_prompt": True, "enable_thinking": False} | SPECIAL
    yield {"messages": [SYSTEM, USER], "add_generation_prompt": True, "enable_thinking": True} | SPECIAL


class Generation(jinja2.ext.Extension):
    """{% generation %}, which marks what the assistant wrote and prints it as it is."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = __import__("datetime").datetime.now().strftime
    return env


def rendered(source, variables):
    """The text; None where jinja2 raises."""
    try:
        return environment().from_string(source).render(**({"tools": None, "documents": None} | variables))
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, AttributeError, KeyError, IndexError, ArithmeticError):
        return None
