#include "loader/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/loader/gguf_bytes.h"

namespace spillway {
namespace {

using testing::HasSubstr;

// As SmolLM2-Instruct's file writes it, with a sentence of our own.
constexpr const char* kWithSystem =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou answer "
    "briefly<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

class ChatTemplateTest : public testing::Test {
 protected:
  ChatTemplate from(const std::string& source) {
    Checkpoint checkpoint;
    checkpoint.files.push_back(File::open_read(folder_.write("model.gguf", "GGUF")));
    if (!source.empty()) checkpoint.meta["tokenizer.chat_template"] = source;
    return ChatTemplate::from(checkpoint);
  }
  std::string refused(const std::string& source) {
    try {
      from(source);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      return error.what();
    }
    ADD_FAILURE() << "not refused: " << source;
    return "";
  }

  TemporaryFolder folder_;
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

TEST_F(ChatTemplateTest, TheLineBreakMayBeEscaped) {
  EXPECT_EQ(from("{{ '<|im_start|>system\\nIt\"s me.<|im_end|>\\n' }}").default_system(), "It\"s me.");
  EXPECT_EQ(from("{{ \"<|im_start|>system\\nIt's me.<|im_end|>\\n\" }}").default_system(), "It's me.");
  EXPECT_EQ(from("{% if x %}<|im_start|>system\nIt's me.<|im_end|>\n{% endif %}").default_system(), "It's me.");
}

TEST_F(ChatTemplateTest, NoSystemMessageWhereTheTemplateHoldsNone) {
  EXPECT_EQ(from("{{'<|im_start|>' + role + '\n' + content + '<|im_end|>'}}").default_system(), std::nullopt);
  EXPECT_EQ(from("{{'<|im_start|>system\n' + messages[0].content + '<|im_end|>'}}").default_system(), std::nullopt);
  EXPECT_EQ(from("<|im_start|>system\n{{ messages[0].content }}<|im_end|>").default_system(), std::nullopt);
  EXPECT_EQ(from("{{'<|im_end|><|im_start|>system\n'}}").default_system(), std::nullopt);
  // The first is a message's own, the second is written out.
  EXPECT_EQ(from("{{'<|im_start|>system\n' + content + '<|im_end|>'}}{{'<|im_start|>system\nHello<|im_end|>'}}")
                .default_system(),
            "Hello");
}

TEST_F(ChatTemplateTest, RefusesOtherKinds) {
  EXPECT_THAT(refused(""), testing::AllOf(HasSubstr("no chat template"), HasSubstr("ChatML"), HasSubstr("model.gguf")));
  EXPECT_THAT(refused("[INST] {{ content }} [/INST]"), testing::AllOf(HasSubstr("another kind"), HasSubstr("ChatML")));
  EXPECT_THAT(refused("<|im_start|><|im_end|><think>"), HasSubstr("thinking"));
}

}  // namespace
}  // namespace spillway
