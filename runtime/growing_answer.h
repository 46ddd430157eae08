// GrowingAnswer: a continuation, token by token: its text, whole characters up to the first stop string, and when it
// ends. It draws and computes nothing, so that any number of them may grow side by side.
#pragma once

#include <functional>
#include <string_view>

#include "loader/tokenizer.h"
#include "runtime/generate.h"
#include "runtime/sampler.h"
#include "runtime/stop.h"

namespace spillway {

class GrowingAnswer {
 public:
  using OnText = std::function<void(std::string_view text)>;
  // positions: that prompt and answer may take; result: with its prompt_tokens. The sampler is told of each token.
  // on_text may be empty. All but `positions` outlive this. Throws Error(usage) as StopStrings does.
  GrowingAnswer(const Tokenizer& tokenizer, const GenerateOptions& options, int positions, Sampler& sampler,
                const OnText& on_text, Generation& result);

  // Of the token that was drawn: one that ends the text is no part of the answer, any other is. True: the answer goes
  // on, and the token is to be computed next; else result.finish says why not.
  bool add(int32_t token);
  // Whether one more step after the next is expected.
  bool expects_another() const;
  // The end of the text.
  void finish();

 private:
  int tokens() const { return static_cast<int>(result_.tokens.size()); }
  void emit(const std::string& text);

  const Tokenizer& tokenizer_;
  const GenerateOptions& options_;
  const int positions_;
  Sampler& sampler_;
  const OnText& on_text_;
  Generation& result_;
  Utf8Stream utf8_;
  StopStrings stops_;
};

}  // namespace spillway
