// spillway batch: requests in a file of JSON lines, answers in another; merge joins the outputs of shards.
#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <filesystem>

#include "apps/batch/job.h"
#include "apps/batch/merge.h"
#include "apps/commands.h"
#include "apps/interrupt.h"
#include "apps/output.h"
#include "kernels/check.h"

namespace spillway {
namespace {

struct MergeFlags {
  std::string output;
  std::vector<std::string> parts;
};

int run_merge(const MergeFlags& flags) {
  const MergeReport report = merge_batches(flags.output, flags.parts);
  std::fprintf(stderr, "%s: %llu results, %llu of them errors\n", flags.output.c_str(),
               static_cast<unsigned long long>(report.answered), static_cast<unsigned long long>(report.errors));
  return 0;
}

// "2/8".
Shard shard_of(const std::string& text) {
  Shard shard;
  const size_t slash = text.find('/');
  const auto number = [](std::string_view digits, int& value) {
    const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return problem == std::errc{} && end == digits.data() + digits.size();
  };
  const std::string_view view = text;
  const bool good = slash != std::string::npos && number(view.substr(0, slash), shard.index) &&
                    number(view.substr(slash + 1), shard.count) && shard.index >= 1 && shard.index <= shard.count;
  if (!good) throw Error(ErrorKind::usage, fmt::format("--shard {}: 1/N to N/N is wanted", text));
  return shard;
}

}  // namespace

Command add_batch(CLI::App& app) {
  auto flags = std::make_shared<BatchFlags>();
  auto merge = std::make_shared<MergeFlags>();
  auto shard = std::make_shared<std::string>("1/1");
  CLI::App* command =
      app.add_subcommand("batch", "Answer a file of requests (OpenAI's batch lines), many at once; resumable");
  add_option(*command, "-i,--input", flags->input, "Requests, a JSON object a line (JSONL)")->type_name("FILE");
  add_option(*command, "-o,--output", flags->output,
             "Results, a line each as they come; begun before, it is gone on with (OUTPUT.journal lies beside it)")
      ->type_name("FILE");
  add_option(*command, "--parallel,--np", flags->most_sequences,
             "Requests answered at once, at most; 0: what is fastest (-np)")
      ->check(within(0, 4096));
  add_flag(*command, "--deterministic", flags->deterministic,
           "A greedy answer is the same, to the bit, in whatever company it is computed");
  add_flag(*command, "--ordered", flags->ordered, "At the end, bring the results into the order of the input");
  add_flag(*command, "--retry-failed", flags->retry_failed, "Ask again what has an error");
  add_option(*command, "--shard", *shard, "Answer every N-th request only, from the I-th on: I/N")
      ->capture_default_str();
  add_option(
      *command, "-n,--predict", flags->max_tokens,
      "Tokens of an answer at most, where its line does not say; -1: 16 for completions, for chats to the end of "
      "the context")
      ->check(within(-1))
      ->capture_default_str();
  add_option(*command, "-s,--seed", flags->seed, "Lines without a seed draw theirs from this and their custom_id")
      ->check(within(0))
      ->capture_default_str();
  add_flag(*command, "--ignore-eos", flags->ignore_end, "Go on past the model's end tokens, where a line does not say");
  flags->chat_template.add(*command);
  flags->run.add(*command);
  flags->command = command;
  CLI::App* merging = command->add_subcommand("merge", "Join the outputs of all shards, in the order of the input");
  merging->add_option("OUTPUT", merge->output, "The file to write")->required();
  merging->add_option("PARTS", merge->parts, "The outputs of the shards, all of them")->required();
  return [=] {
    if (merging->parsed()) return run_merge(*merge);
    flags->shard = shard_of(*shard);
    return run_batch_job(*flags);
  };
}

}  // namespace spillway
