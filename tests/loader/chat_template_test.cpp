#include "loader/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>

#include "tests/loader/gguf_bytes.h"
#include "tests/support/real_model.h"

namespace spillway {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

const std::string kTemplates = SPILLWAY_TEST_DATA "/templates/";

std::string whole_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// As SmolLM2-Instruct's file writes it, with a sentence of our own.
constexpr const char* kWithSystem =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "answer "
    "briefly<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

class ChatTemplateTest : public testing::Test {
 protected:
  ChatTemplateTest() {
    checkpoint_.files.push_back(File::open_read(folder_.write("model.gguf", "GGUF")));
    checkpoint_.meta["tokenizer.ggml.model"] = std::string("gpt2");
  }
  ChatTemplate from(const std::string& source) {
    checkpoint_.meta.erase("tokenizer.chat_template");
    if (!source.empty()) checkpoint_.meta["tokenizer.chat_template"] = source;
    return ChatTemplate::from(checkpoint_);
  }
  std::string text(const std::string& source, const std::string& variables = "{}") {
    return from(source).render_json(variables);
  }
  std::string refused(const std::function<void()>& action, ErrorKind kind = ErrorKind::model) {
    try {
      action();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind);
      return error.what();
    }
    ADD_FAILURE() << "nothing was refused";
    return "";
  }
  std::string refused(const std::string& source) {
    return refused([&] { text(source); });
  }

  TemporaryFolder folder_;
  Checkpoint checkpoint_;
};

TEST_F(ChatTemplateTest, WritesItsOwnSystemMessageWhereNoneIsGiven) {
  const ChatTemplate chat = from(kWithSystem);
  const ChatMessage user{"user", "Why?"}, system{"system", "Be kind."};
  const std::string question = "<|im_start|>user\nWhy?<|im_end|>\n";
  EXPECT_EQ(chat.render({&user, 1}, true),
            "<|im_start|>system\nYou answer briefly<|im_end|>\n" + question + "<|im_start|>assistant\n");
  EXPECT_EQ(chat.render({&user, 1}, false), "<|im_start|>system\nYou answer briefly<|im_end|>\n" + question);
  const ChatMessage both[] = {system, user};
  EXPECT_EQ(chat.render(both, false), "<|im_start|>system\nBe kind.<|im_end|>\n" + question);
  EXPECT_EQ(chat.render({}, true), "<|im_start|>assistant\n");
}

TEST_F(ChatTemplateTest, TextsOfJinja2) {
  const ordered_json golden = ordered_json::parse(std::ifstream(kTemplates + "golden.json"));
  int compared = 0;
  for (const char* name : {"language.jinja", "strict.jinja", "thinking.jinja"}) {
    const ChatTemplate chat = from(whole_file(kTemplates + name));
    for (size_t i = 0; i < golden["cases"].size(); ++i) {
      const ordered_json& expected = golden[name][i];
      const std::string variables = golden["cases"][i].dump();
      if (expected.is_null()) {  // jinja2 raises
        EXPECT_THROW(chat.render_json(variables), Error) << name << variables;
      } else {
        EXPECT_EQ(chat.render_json(variables), expected.get<std::string>()) << name << variables;
      }
      ++compared;
    }
  }
  EXPECT_GE(compared, 150);
}

// Sources and what jinja2 renders from them without variables; null where it raises (make_template_golden.py).
TEST_F(ChatTemplateTest, ExpressionsOfJinja2) {
  const ordered_json expressions = ordered_json::parse(std::ifstream(kTemplates + "expressions.json"));
  EXPECT_GE(expressions.size(), 590u);
  for (const auto& [source, expected] : expressions.items()) {
    if (expected.is_null()) {
      EXPECT_THROW(text(source), Error) << source;
    } else {
      EXPECT_EQ(text(source), expected.get<std::string>()) << source;
    }
  }
}

// As in jinja2, where they raise TypeError.
TEST_F(ChatTemplateTest, GeneratorsHaveNeitherLengthNorJsonNorSum) {
  for (const char* use : {"| tojson", "| length", "| last", "+ [1]"}) {
    const std::string source = "{{ ([1, 2] | map('string')) " + std::string(use) + " }}";
    EXPECT_THAT(refused(source), HasSubstr("generator")) << source;
    EXPECT_NO_THROW(text("{{ ([1, 2] | map('string') | list) " + std::string(use) + " }}")) << source;
  }
}

TEST_F(ChatTemplateTest, EveryBuiltInTemplateRendersAConversation) {
  const ChatMessage messages[] = {{"system", "Be brief."}, {"user", " Why? "}, {"assistant", "So."}, {"user", "Why?"}};
  ASSERT_GE(ChatTemplate::built_in_names().size(), 6u);
  for (const std::string& name : ChatTemplate::built_in_names()) {
    const ChatTemplate chat = ChatTemplate::parse(ChatTemplate::built_in(name), name, checkpoint_);
    const std::string all = chat.render(messages, true);
    EXPECT_THAT(all, testing::AllOf(HasSubstr("Be brief."), HasSubstr("So."), HasSubstr("Why?"))) << name;
    EXPECT_LT(all.find("Be brief."), all.find("Why?")) << name;
    // What was said stays a beginning of what follows, so that its KV can be kept.
    const std::string before = chat.render({messages, 2}, false);
    EXPECT_EQ(all.substr(0, before.size()), before) << name;
  }
  EXPECT_EQ(ChatTemplate::built_in("alpaca"), nullptr);
}

TEST_F(ChatTemplateTest, KnownTexts) {
  const auto by = [&](const char* name, std::vector<ChatMessage> messages) {
    return ChatTemplate::parse(ChatTemplate::built_in(name), name, checkpoint_).render(messages, true);
  };
  checkpoint_.meta["tokenizer.ggml.tokens"] = MetaArray(std::vector<std::string>{"<bos>", "<eos>"});
  checkpoint_.meta["tokenizer.ggml.bos_token_id"] = int64_t{0};
  checkpoint_.meta["tokenizer.ggml.eos_token_id"] = int64_t{1};
  EXPECT_EQ(by("chatml", {{"user", "Hi"}}), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(by("gemma", {{"system", "S"}, {"user", "Hi "}}),
            "<bos><start_of_turn>user\nS\n\nHi<end_of_turn>\n<start_of_turn>model\n");
  EXPECT_EQ(
      by("llama3", {{"user", "Hi"}}),
      "<bos><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(by("llama2", {{"system", "S"}, {"user", "Hi"}, {"assistant", "Yo"}, {"user", "?"}}),
            "<bos>[INST] <<SYS>>\nS\n<</SYS>>\n\nHi [/INST] Yo <eos><bos>[INST] ? [/INST]");
  EXPECT_EQ(by("mistral", {{"user", "Hi"}, {"assistant", "Yo"}, {"user", "?"}}),
            "<bos>[INST] Hi [/INST] Yo<eos>[INST] ? [/INST]");
  EXPECT_EQ(by("phi3", {{"user", "Hi"}}), "<|user|>\nHi<|end|>\n<|assistant|>\n");
}

std::string raised(const std::string& text) { return "{{ raise_exception(" + ordered_json(text).dump() + ") }}"; }

TEST_F(ChatTemplateTest, ATemplateMayRefuseAConversationInItsOwnWords) {
  const auto words = [&](const std::string& source) {
    const std::string all = refused([&] { text(source); }, ErrorKind::usage);
    const std::string before = "the chat template does not take this conversation: ";
    EXPECT_THAT(all, testing::StartsWith(before));
    return all.substr(std::min(before.size(), all.size()));
  };
  EXPECT_EQ(words(raised("Only users.")), "Only users.");
  EXPECT_EQ(words(raised("Les rôles doivent alterner : 用户, помощник 🙂")),
            "Les rôles doivent alterner : 用户, помощник 🙂");
  // Nothing moves the cursor, or turns the line around.
  EXPECT_EQ(words(raised("a\n\x1b[2J\u0085\u202e\u2028b")), "a\\x0a\\x1b[2J\\x85\\u202e\\u2028b");
  EXPECT_EQ(words("{{ raise_exception('\xff\xe6\x9d') }}"), "\\xff\\xe6\\x9d");
  // Long words are cut between characters.
  const std::string filler(998, 'x');
  EXPECT_EQ(words(raised(filler + "é")), filler + "é");
  EXPECT_EQ(words(raised(filler + "é.")), filler + "é...");
  EXPECT_EQ(words(raised(filler + "東")), filler + "...");
}

TEST_F(ChatTemplateTest, WhatIsNotKnownIsNamedWithItsLineAndTheWayOut) {
  EXPECT_THAT(refused(""), testing::AllOf(HasSubstr("no chat template"), HasSubstr("--template"), HasSubstr("chatml"),
                                          HasSubstr("model.gguf")));
  EXPECT_THAT(refused("\n\n{% include 'x' %}"),
              testing::AllOf(HasSubstr("line 3"), HasSubstr("\"include\""), HasSubstr("--template")));
  EXPECT_THAT(refused("a\n{{ x | urlize }}"), testing::AllOf(HasSubstr("line 2"), HasSubstr("\"urlize\""),
                                                             HasSubstr("tojson"), HasSubstr("--template")));
  EXPECT_THAT(refused("{{ 1 is prime }}"), testing::AllOf(HasSubstr("\"prime\""), HasSubstr("divisibleby")));
  EXPECT_THAT(refused("{{ 'x'.zfill(3) }}"), testing::AllOf(HasSubstr("\"zfill\""), HasSubstr("--template")));
  EXPECT_THAT(refused("{% for x in y recursive %}{% endfor %}"), HasSubstr("recursive"));
  EXPECT_THAT(refused("{{ x.y }}"), HasSubstr("\"x\" is undefined"));
  EXPECT_THAT(refused("{{ '\\N{DEGREE SIGN}' }}"),
              testing::AllOf(HasSubstr("\\N{DEGREE SIGN}"), HasSubstr("not known here"), HasSubstr("--template")));
  EXPECT_THAT(refused("{{ [1] | map('\\x1b[2J') | list }}"), HasSubstr("the filter \"\\x1b[2J\" is not known"));
  EXPECT_THAT(refused("{{ [1] | tojson(depth=1) }}"),
              testing::AllOf(HasSubstr("\"depth\" of the filter \"tojson\" is not known"), HasSubstr("--template")));
  const std::pair<const char*, const char*> kPythons[] = {
      {"{% macro f(n) %}{% endmacro %}{{ f.name }}", "\"name\" of a function"},
      {"{{ 12 .real }}", "\"real\" of an integer"},
      {"{{ self }}", "self"},
      {"{{ range }}", "a function as a text"},
      {"{{ {'items': 3}.items }}", "a function as a text"},
      {"{{ [1] | map('string') }}", "a generator as a text"},
      {"{% for x in [1] %}{{ loop }}{% endfor %}", "a loop as a text"},
  };
  for (const auto& [source, what] : kPythons) {
    EXPECT_THAT(refused(source),
                testing::AllOf(HasSubstr(what), HasSubstr("is not known here"), HasSubstr("--template")));
  }
  EXPECT_THAT(refused("{{ größe.x }}"), HasSubstr("\"größe\" is undefined"));
  EXPECT_THAT(refused("{{ '\\ud800' }}"), HasSubstr("\\ud800"));
  EXPECT_THAT(refused("{% set x = [] %}{% set y = x.append(1) %}"), HasSubstr("in place"));
}

TEST_F(ChatTemplateTest, WhatIsMisspeltIsASyntaxErrorOfItsLine) {
  const std::pair<const char*, const char*> kCases[] = {
      {"a\n{% if x\n\n", "line 2: a syntax error: {% is not closed by %}"},
      {"\n\n{{ x", "line 3: a syntax error: {{ is not closed by }}"},
      {"{{", "line 1: a syntax error: {{ is not closed by }}"},
      {"a\nb {# x\n", "line 2: a syntax error: a comment, {#, is not closed by #}"},
      {"\n{% raw %}x\n", "line 2: a syntax error: {% raw %} is not closed by {% endraw %}"},
      {"\n{% if true %}\n{% for x in [] %}{% endfor %}\n\n",
       "line 2: a syntax error: {% if %} is not closed by {% endif %}"},
      {"{% if a %}{% else %}\n", "line 1: a syntax error: {% if %} is not closed by {% endif %}"},
      {"{% for x in [1] %}", "{% for %} is not closed by {% endfor %}"},
      {"{% macro m() %}", "{% macro %} is not closed by {% endmacro %}"},
      {"{% set x %}", "{% set %} is not closed by {% endset %}"},
      {"x\n{% endif %}", "line 2: a syntax error: {% endif %} closes nothing that is open here"},
      {"{% if a %}{% endfor %}{% endif %}", "{% endfor %} closes nothing that is open here"},
      {"{% else %}", "{% else %} closes nothing"},
      {"{{ 'x }}", "a text lacks its closing quote"},
      {"{{ (1 }}", "} closes nothing"},
      {"{{ 1 + }}", "}} stands at this place"},
      {"{{ a b }}", "\"b\" stands at this place"},
      {"{{ 1 ? 2 }}", "the character \"?\" stands in a tag"},
      {"{{ 1 \u20ac 2 }}", "the character \"\u20ac\" stands in a tag"},
      {"{{ x is string is true }}", "a test stands behind a test"},
      {"{{ f(a=1, 2) }}", "an argument without a name"},
      {"{% break %}", "break stands outside of a loop"},
      {"{{ '\\x4' }}", "\\x4"},
  };
  for (const auto& [source, expected] : kCases) {
    const std::string what = refused(source);
    EXPECT_THAT(what, testing::AllOf(HasSubstr(expected), HasSubstr("--template"))) << source;
    EXPECT_THAT(what, testing::Not(HasSubstr("not known"))) << source;
  }
}

// The model's own template is the model's fault; one that was given is the flag's.
TEST_F(ChatTemplateTest, WhoseFaultItIs) {
  const auto given = [&](const std::string& source) {
    return refused([&] { ChatTemplate::parse(source, "--template x", checkpoint_).render_json("{}"); },
                   ErrorKind::usage);
  };
  for (const char* source : {"{% if x", "{{ x | urlize }}", "{{ x.y }}"}) {
    EXPECT_THAT(given(source), testing::StartsWith("--template x, line 1: ")) << source;
    EXPECT_THAT(refused(source), HasSubstr("model.gguf")) << source;
  }
  EXPECT_THAT(given(std::string(300 << 10, ' ')), HasSubstr("the longest that is read"));
}

TEST_F(ChatTemplateTest, AHostileTemplateEndsSoonAndTakesLittleMemory) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THAT(refused("{% for i in range(100000000) %}x{% endfor %}"), HasSubstr("more than 100000"));
  EXPECT_THAT(refused("{{ range(10)[::9223372036854775807] }}"), HasSubstr("too far"));
  // What is looked up and searched for in what is large, again and again.
  const std::string again = "{% for i in range(99999) %}";
  const std::string large =
      "{% set a = 'a' * 999999 %}{% set b = 'a' * 99999 ~ 'b' %}{% set l = [7] * 99999 %}" + again;
  for (const char* use :
       {"b in a", "a.find(b)", "a.rfind(b)", "a.split(b)", "a.rsplit(b)", "a.replace(b, '')", "a.count(b)",
        "a.strip(b)", "l.index(7)", "l.count(1)", "l | replace('7', '')", "8 in l", "l | trim('[')"}) {
    EXPECT_THAT(refused(large + "{% if " + use + " %}{% endif %}{% endfor %}"), HasSubstr("steps")) << use;
  }
  std::string names;
  for (int i = 0; i < 5000; ++i) names += "{% set x" + std::to_string(i) + " = 1 %}";
  EXPECT_THAT(refused(names + again + again + "{{ nobody }}{% endfor %}{% endfor %}"), HasSubstr("steps"));
  EXPECT_THAT(refused("{{ 10 ** 99999999999 }}"), HasSubstr("beyond 64 bits"));
  // Comparisons of what is large, and again and again.
  const std::string many = "{% for j in range(9999) %}{% if a == b %}{% endif %}{% endfor %}";
  std::string dict;
  for (int i = 0; i < 1500; ++i) dict += std::to_string(i) + ":1,";
  EXPECT_THAT(refused("{% set a = {" + dict + "x: 1} %}{% set b = {y: 1," + dict + "} %}" + many), HasSubstr("steps"));
  EXPECT_THAT(refused("{% set a = (1,) * 99999 %}{% for i in range(99999) %}{% if {}.get(a) %}{% endif %}{% endfor %}"),
              HasSubstr("steps"));
  EXPECT_THAT(refused("{% set a = [range(9999)|list] * 9 %}{% set b = [range(9999)|list] * 9 %}" + many),
              HasSubstr("steps"));
  EXPECT_THAT(refused("{% set a = [range(9999)|list] * 999 %}{{ a | sort | length }}{{ a | sort | length }}" + many),
              HasSubstr("steps"));
  EXPECT_THAT(refused("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}"),
              HasSubstr("steps"));
  EXPECT_THAT(refused("{{ 'x' * 99999999999 }}"), HasSubstr("steps or memory"));
  EXPECT_THAT(refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), HasSubstr("too deep"));
  EXPECT_THAT(
      refused("{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"),
      HasSubstr("steps or memory"));
  EXPECT_THAT(
      refused(
          "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}"),
      HasSubstr("steps or memory"));
  EXPECT_THAT(refused("{% set ns = namespace(x=[1]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}"),
              HasSubstr("too deep"));
  EXPECT_THAT(
      refused("{% set ns = namespace(x=[1]) %}{% for i in range(9999) %}{% set ns.x = [ns.x.index] %}{% endfor %}"),
      HasSubstr("too deep"));
  EXPECT_THAT(refused("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}"),
              HasSubstr("deeper than 200"));
  std::string sum = "{{ 1";
  for (int i = 0; i < 9999; ++i) sum += "+1";
  EXPECT_THAT(refused(sum + " }}"), HasSubstr("deeper than 200"));
  EXPECT_THAT(refused("{{ 'x' | indent(9223372036854775807) }}"), HasSubstr("steps or memory"));
  EXPECT_THAT(refused("{{ -9223372036854775807 - 2 }}"), HasSubstr("beyond 64 bits"));
  EXPECT_THAT(refused(std::string(300 << 10, ' ')), HasSubstr("the longest that is read"));
  const std::string kept =
      "{% set ns = namespace() %}{% macro m() %}{% set ns.f = caller %}{% endmacro %}{% for i in [1] %}{% call m() "
      "%}x{{ i }}{% endcall %}{% endfor %}{{ ns.f() }}";
  EXPECT_THAT(refused(kept), HasSubstr("no longer defined"));
  // Generators that go over each other, by what they hold and by what they find when they are asked.
  EXPECT_THAT(
      refused("{% set ns = namespace(g=[1]) %}{% for i in range(9999) %}{% set ns.g = ns.g|select %}{% endfor %}"),
      HasSubstr("too deep"));
  EXPECT_THAT(refused("{% set ns = namespace(n=namespace(g=[1])) %}{% for i in range(9999) %}{% set n = namespace() %}"
                      "{% set n.g = [ns.n]|map(attribute='g')|map('list') %}{% set ns.n = n %}{% endfor %}"
                      "{{ ns.n.g|list }}"),
              HasSubstr("too deep"));
  EXPECT_THAT(refused("{% set a = 'a' * 9999 %}{% set ns = namespace(g=[]) %}{% for i in range(9999) %}"
                      "{% set ns.g = [ns.g, a|map('upper')]|first %}{% endfor %}"),
              HasSubstr("steps or memory"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

TEST_F(ChatTemplateTest, OutOfAHuggingFaceFolder) {
  Checkpoint checkpoint;
  checkpoint.files.push_back(File::open_read(folder_.write("config.json", "{}")));
  EXPECT_THAT(refused([&] { ChatTemplate::from(checkpoint); }), HasSubstr("no chat template"));
  folder_.write(
      "tokenizer_config.json",
      R"({"bos_token": {"content": "<b>"}, "eos_token": "<e>", "chat_template": [{"name": "tool_use", "template":
                "no"}, {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"}]})");
  const ChatMessage user{"user", "Hi"};
  EXPECT_EQ(ChatTemplate::from(checkpoint).render({&user, 1}, true), "<b>Hi<e>");
  folder_.write("chat_template.jinja", "{{ messages | length }}{{ pad_token is defined }}\n");
  EXPECT_EQ(ChatTemplate::from(checkpoint).render({&user, 1}, true), "1False");
}

TEST(SmolLm2, ItsOwnTemplate) {
  if (real_model().empty()) GTEST_SKIP() << kNoRealModel;
  const ChatMessage messages[] = {{"user", "Hi"}, {"assistant", "Yo"}};
  EXPECT_EQ(ChatTemplate::from(open_gguf(real_model())).render(messages, false),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n");
}

}  // namespace
}  // namespace spillway
