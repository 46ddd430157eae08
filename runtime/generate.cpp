#include "runtime/generate.h"

#include <fmt/format.h>

#include <chrono>

#include "runtime/growing_answer.h"

namespace spillway {
namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Between two chunks of the prompt.
struct Stopped {};

}  // namespace

void check_prompt(std::span<const int32_t> prompt, int used, int context) {
  if (prompt.empty()) throw Error(ErrorKind::usage, "the prompt is empty");
  if (used + static_cast<int>(prompt.size()) > context) {
    throw Error(ErrorKind::usage,
                fmt::format("the prompt has {} tokens, but the context holds {} (-c){}", prompt.size(), context,
                            used > 0 ? fmt::format(" and {} are taken", used) : ""));
  }
}

Generation generate(Engine& engine, const Tokenizer& tokenizer, SequenceId sequence, std::span<const int32_t> prompt,
                    const GenerateOptions& options, const GenerateHooks& hooks) {
  const int context = engine.plan().context, used = engine.tokens(sequence);
  check_prompt(prompt, used, context);
  Generation result;
  result.prompt_tokens = static_cast<int>(prompt.size());
  Sampler sampler(options.sampling, tokenizer.vocab());
  GrowingAnswer answer(tokenizer, options, context - used, sampler, hooks.on_text, result);
  for (int32_t id : options.before) sampler.accept(id);
  for (int32_t id : prompt) sampler.accept(id);

  const LinkBytes loaded = LinkBytes::of(engine.traffic());
  const WaitSeconds waited = WaitSeconds::of(engine.waits());
  const double begin = seconds();
  const bool decodes = options.max_tokens != 0 && options.max_tokens != 1;
  int32_t next = -1;
  // A table may have more rows than there are tokens, to make it divide well: those are no answers.
  RowChoice wanted{.vocab = tokenizer.vocab()};
  const auto choice = [&]() -> const RowChoice* {
    const auto of_row = engine.should_choose() ? sampler.choice() : std::nullopt;
    if (of_row) wanted.candidates = *of_row;
    return of_row ? &wanted : nullptr;
  };
  const auto choose = [&](std::span<const float> row, bool chosen) {
    const auto drawn = chosen ? sampler.sample_chosen(row) : std::nullopt;
    if (chosen && !drawn) row = engine.last_logits();
    next = drawn ? *drawn : sampler.sample(row.first(static_cast<size_t>(tokenizer.vocab())));
  };
  const auto on_prefill = [&](uint64_t done, uint64_t total) {
    if (hooks.on_prefill) hooks.on_prefill(done, total);
    if (done < total && hooks.interrupted && hooks.interrupted()) throw Stopped{};
  };
  try {
    const RowChoice* chosen = choice();
    engine.prefill(
        sequence, prompt, {options.max_tokens == 0 ? 0 : 1, chosen}, decodes,
        [&](int, std::span<const float> row) { choose(row, chosen != nullptr); }, on_prefill);
  } catch (const Stopped&) {
    result.finish = FinishReason::interrupted;
    return result;
  }
  const double prefilled = seconds();
  result.timings.prefill_s = prefilled - begin;
  result.timings.ttft_s = prefilled - begin;
  result.prefill_bytes = LinkBytes::of(engine.traffic()).since(loaded);

  while (options.max_tokens != 0 && answer.add(next)) {
    if (hooks.interrupted && hooks.interrupted()) {
      result.finish = FinishReason::interrupted;
      break;
    }
    const RowChoice* chosen = choice();
    choose(engine.decode(sequence, next, answer.expects_another(), chosen), chosen != nullptr);
    ++result.decode_steps;
    if (hooks.on_step) hooks.on_step(engine.tokens(sequence));
  }
  answer.finish();
  result.timings.decode_s = seconds() - prefilled;
  result.decode_bytes = LinkBytes::of(engine.traffic()).since(loaded).since(result.prefill_bytes);
  result.waits = WaitSeconds::of(engine.waits()).since(waited);
  if (result.timings.prefill_s > 0) result.timings.prefill_tps = result.prompt_tokens / result.timings.prefill_s;
  if (result.decode_steps > 0) result.timings.decode_tps = result.decode_steps / result.timings.decode_s;
  return result;
}

}  // namespace spillway
