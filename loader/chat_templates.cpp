// Built-in chat templates, written in the manner of the families, for models that bring none or one that is not
// understood.
#include <algorithm>

#include "loader/chat_template.h"

namespace spillway {
namespace {

struct BuiltIn {
  const char* name;
  const char* source;
};

constexpr BuiltIn kBuiltIn[] = {
    {"chatml", R"({%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%})"},
    {"gemma", R"({{- bos_token -}}
{%- set opening = namespace(text='') -%}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}
        {%- set opening.text = message.content | trim ~ '\n\n' -%}
    {%- else -%}
        {{- '<start_of_turn>' ~ ('model' if message.role == 'assistant' else message.role) ~ '\n' -}}
        {{- opening.text ~ message.content | trim ~ '<end_of_turn>\n' -}}
        {%- set opening.text = '' -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%})"},
    {"llama2", R"({%- set opening = namespace(text='') -%}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}
        {%- set opening.text = '<<SYS>>\n' ~ message.content | trim ~ '\n<</SYS>>\n\n' -%}
    {%- elif message.role == 'user' -%}
        {{- bos_token ~ '[INST] ' ~ opening.text ~ message.content | trim ~ ' [/INST]' -}}
        {%- set opening.text = '' -%}
    {%- else -%}
        {{- ' ' ~ message.content | trim ~ ' ' ~ eos_token -}}
    {%- endif -%}
{%- endfor -%})"},
    {"llama3", R"({{- bos_token -}}
{%- for message in messages -%}
    {{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\n\n' ~ message.content | trim ~ '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%})"},
    {"mistral", R"({{- bos_token -}}
{%- set opening = namespace(text='') -%}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}
        {%- set opening.text = message.content ~ '\n\n' -%}
    {%- elif message.role == 'user' -%}
        {{- '[INST] ' ~ opening.text ~ message.content ~ ' [/INST]' -}}
        {%- set opening.text = '' -%}
    {%- else -%}
        {{- ' ' ~ message.content ~ eos_token -}}
    {%- endif -%}
{%- endfor -%})"},
    {"phi3", R"({%- for message in messages -%}
    {{- '<|' ~ message.role ~ '|>\n' ~ message.content ~ '<|end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%})"},
    {"plain", R"({%- for message in messages -%}
    {{- message.role | capitalize ~ ': ' ~ message.content ~ '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%})"},
};

}  // namespace

const char* ChatTemplate::built_in(const std::string& name) {
  const auto* found =
      std::find_if(std::begin(kBuiltIn), std::end(kBuiltIn), [&](const auto& one) { return one.name == name; });
  return found == std::end(kBuiltIn) ? nullptr : found->source;
}

std::vector<std::string> ChatTemplate::built_in_names() {
  std::vector<std::string> names;
  for (const BuiltIn& one : kBuiltIn) names.emplace_back(one.name);
  return names;
}

}  // namespace spillway
