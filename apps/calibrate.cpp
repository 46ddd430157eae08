// spillway calibrate: makes the skew of a model, which the rehearsal of its KV needs.
#include "runtime/calibrate.h"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/environment.h"
#include "apps/flags.h"
#include "apps/interrupt.h"
#include "apps/output.h"
#include "apps/running.h"
#include "memory/format_bytes.h"
#include "runtime/fingerprint.h"

namespace spillway {
namespace {

struct CalibrateFlags {
  RunFlags run;
  std::string file;
  std::string guess = kQueryGuessNames[static_cast<int>(QueryGuess::ridge)];
  int ahead = 1;
};

QueryGuess guess_of(const std::string& name) {
  for (size_t i = 0; i < std::size(kQueryGuessNames); ++i) {
    if (name == kQueryGuessNames[i]) return static_cast<QueryGuess>(i);
  }
  throw Error(ErrorKind::usage, fmt::format("--query: \"{}\" is not one of gain, ridge", name));
}

void print(const CalibrationReport& report, const CalibrateOptions& options, bool json) {
  const char* guess = kQueryGuessNames[static_cast<int>(options.guess)];
  if (json) {
    const nlohmann::json out{{"path", report.path},
                             {"context", report.context},
                             {"tokens", report.tokens},
                             {"prefills", report.prefills},
                             {"query", guess},
                             {"ahead", options.ahead},
                             {"ridge", {report.least_strength, report.most_strength}},
                             {"query_error", {{"gain", report.gain_error}, {"ridge", report.ridge_error}}},
                             {"sums_bytes", report.memory},
                             {"timings", {{"prefill_s", report.prefill_s}, {"solve_s", report.solve_s}}}};
    put(out.dump() + "\n");
    return flush_output();
  }
  put(fmt::format("{}\n{} positions, {} tokens of text, {:.1f} s of prefill and {:.1f} s of solving\n", report.path,
                  report.context, report.tokens, report.prefill_s, report.solve_s));
  if (report.ridge_error > 0) {
    put(
        fmt::format("of a query's variance, the model's own matrix misses {:.2f} % from {} back, the corrected one "
                    "{:.2f} % (ridge {} to {})\n",
                    100 * report.gain_error, options.ahead == 1 ? "a layer" : "two layers", 100 * report.ridge_error,
                    report.least_strength, report.most_strength));
  }
  flush_output();
}

int run_calibrate(const CalibrateFlags& flags) {
  CalibrateOptions options{.context = flags.run.options.context, .ahead = flags.ahead, .guess = guess_of(flags.guess)};
  CalibrationText text = own_calibration_text();
  if (!flags.file.empty()) text = {std::filesystem::path(flags.file).filename(), read_text_file("-f", flags.file)};
  Running running(flags.run);
  const std::string path =
      skew_path(xdg_of_this_user().cache(), fingerprint(running.model().checkpoint), options.ahead);
  print(running.calibrate(text, options, path), options, flags.run.json);
  return 0;
}

}  // namespace

Command add_calibrate(CLI::App& app) {
  auto flags = std::make_shared<CalibrateFlags>();
  CLI::App* command = app.add_subcommand(
      "calibrate", "Make what choosing KV entries ahead of time needs of a model (its skew), and keep it in the cache");
  add_option(*command, "-f,--file", flags->file,
             "The text to calibrate on, like those to be served but none of them (default: the project's own prose)")
      ->type_name("FILE");
  add_option(*command, "--query", flags->guess,
             "Foretell queries by the model's own matrix (gain), or by one that is corrected on the text (ridge)")
      ->type_name("gain|ridge")
      ->capture_default_str();
  add_option(*command, "--ahead", flags->ahead, "Layers between the input that foretells a query and the query")
      ->check(within(1, 2))
      ->capture_default_str();
  flags->run.add(*command, Runs::prompts);
  return [flags] { return run_calibrate(*flags); };
}

}  // namespace spillway
