#include "runtime/batch.h"

#include <algorithm>
#include <chrono>

#include "runtime/continuation.h"

namespace spillway {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

// One request after another.
BatchReport run_batch(Engine& engine, const Tokenizer& tokenizer, const BatchOptions& options,
                      const BatchHooks& hooks) {
  BatchReport report;
  BatchProgress progress;
  const double begin = now();
  const LinkBytes loaded = LinkBytes::of(engine.traffic());
  const int context = engine.plan().context;
  const int positions = options.most_positions > 0 ? std::min(options.most_positions, context) : context;
  const auto interrupted = [&] {
    report.interrupted = report.interrupted || (hooks.interrupted && hooks.interrupted());
    return report.interrupted;
  };
  const auto tell = [&] {
    progress.seconds = now() - begin;
    if (hooks.on_progress) hooks.on_progress(progress);
  };
  while (!interrupted()) {
    std::optional<BatchRequest> request = hooks.next();
    if (!request) break;
    BatchAnswer answer;
    answer.key = request->key;
    std::optional<SequenceId> sequence;
    try {
      Continuation growing(std::move(*request), tokenizer, positions);
      sequence = engine.open_sequence();
      progress.running = 1;
      report.tokens_in = progress.tokens_in += static_cast<int64_t>(growing.prompt().size());
      bool more = growing.wants_logits();
      engine.prefill(*sequence, growing.prompt(), more ? 1 : 0, more,
                     [&](int, std::span<const float> logits) { more = growing.take(logits); });
      ++report.steps;
      while (more && !interrupted()) {
        more = growing.take(engine.decode(*sequence, growing.token(), growing.expects_another()));
        ++report.steps;
        ++report.decode_rows;
        ++progress.tokens_out;
        tell();
      }
      answer = growing.finish();
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::io) throw;
      answer.error = error.what();
      answer.error_kind = error.kind();
    }
    if (sequence) engine.close_sequence(*sequence);
    if (report.interrupted) break;
    ++report.requests;
    report.failed += answer.error.empty() ? 0 : 1;
    report.tokens_out += static_cast<int64_t>(answer.generation.tokens.size());
    progress = {.done = report.requests,
                .failed = report.failed,
                .tokens_in = report.tokens_in,
                .tokens_out = report.tokens_out};
    hooks.on_answer(std::move(answer));
    tell();
  }
  report.seconds = now() - begin;
  report.mean_batch = report.decode_rows > 0 ? 1 : 0;
  report.most_sequences = 1;
  report.bytes = LinkBytes::of(engine.traffic()).since(loaded);
  return report;
}

}  // namespace spillway
