// spillway generate: continues raw text. The text goes to standard output, all else to standard error.
#include "runtime/generate.h"

#include <fmt/format.h>

#include <cstdio>

#include "apps/commands.h"
#include "apps/flags.h"
#include "apps/running.h"

namespace spillway {
namespace {

struct GenerateFlags {
  RunFlags run;
  SamplingFlags sampling;
  TextFlags prompt;
  int max_tokens = 128;
  bool special = true;
};

int run_generate(const GenerateFlags& flags) {
  Running running(flags.run);
  const std::vector<int32_t> prompt = running.tokenizer().encode(flags.prompt.read(), flags.special);
  const GenerateOptions options{.max_tokens = flags.max_tokens,
                                .sampling = flags.sampling.resolve(),
                                .stops = flags.sampling.stops,
                                .ignore_end = flags.sampling.ignore_end};
  running.check(prompt, options.sampling);
  const bool to_the_end = flags.max_tokens < 0;
  running.start(static_cast<int>(prompt.size()) + (to_the_end ? 1 : flags.max_tokens), to_the_end);
  return running.finish(running.answer(prompt, options));
}

}  // namespace

Command add_generate(CLI::App& app) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text");
  flags->prompt.add(*command, "The text to continue");
  add_option(*command, "-n,--predict", flags->max_tokens, "Tokens to generate; -1: to the end of the context")
      ->check(within(-1))
      ->capture_default_str();
  flags->sampling.add(*command);
  flags->run.add(*command);
  return [flags] { return run_generate(*flags); };
}

}  // namespace spillway
