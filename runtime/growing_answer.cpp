#include "runtime/growing_answer.h"

namespace spillway {

GrowingAnswer::GrowingAnswer(const Tokenizer& tokenizer, const GenerateOptions& options, int positions,
                             Sampler& sampler, const OnText& on_text, Generation& result)
    : tokenizer_(tokenizer),
      options_(options),
      positions_(positions),
      sampler_(sampler),
      on_text_(on_text),
      result_(result),
      stops_(options.stops) {}

bool GrowingAnswer::add(int32_t token) {
  if (!options_.ignore_end && tokenizer_.is_end(token)) {
    result_.finish = FinishReason::stop;
    return false;
  }
  result_.tokens.push_back(token);
  sampler_.accept(token);
  emit(stops_.push(utf8_.push(tokenizer_.piece(token))));
  if (stops_.stopped()) {
    result_.finish = FinishReason::stop;
    return false;
  }
  // The last token needs no position.
  result_.context_full = result_.prompt_tokens + tokens() - 1 >= positions_;
  return !result_.context_full && (options_.max_tokens < 0 || tokens() < options_.max_tokens);
}

bool GrowingAnswer::expects_another() const {
  return (options_.max_tokens < 0 || tokens() + 1 < options_.max_tokens) &&
         result_.prompt_tokens + tokens() < positions_;
}

void GrowingAnswer::finish() {
  emit(stops_.push(utf8_.finish()));
  emit(stops_.finish());
}

void GrowingAnswer::emit(const std::string& text) {
  if (text.empty()) return;
  result_.text += text;
  if (on_text_) on_text_(text);
}

}  // namespace spillway
