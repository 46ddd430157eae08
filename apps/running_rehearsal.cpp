// What a run does for a rehearsal: a skew of the model, kept or made, and partial keys that go with it.
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "apps/environment.h"
#include "apps/running.h"
#include "runtime/fingerprint.h"
#include "runtime/skew_file.h"

namespace spillway {
namespace {

constexpr const char* kRank = "numbers of a partial key";
constexpr const char* kKeyBits = "bits of a partial key";

void say(const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); }

bool made(const std::unique_ptr<Skew>& skew) { return skew && skew->context > 0; }

}  // namespace

// The skew of the model: the one that is kept, or one made now, for as many positions as will be served. Beyond what it
// was made for, only whole keys choose well.
void Running::prepare_rehearsal(int positions, bool at_least) {
  if (!options_.selection.foretells() || made(model_.skew)) return;
  const Plan fits = plan(positions, at_least, true);  // or is refused, before anything long begins
  if (made(model_.skew) && model_.skew->context >= fits.positions) return;
  const CalibrationText text = own_calibration_text();
  // Of one sequence: how many others share a pass changes no answer.
  const CalibrateOptions wanted{.context = fits.positions, .ahead = options_.selection.ahead};
  Options prompts = options_;
  prompts.selection = {};
  model_.skew = std::make_unique<Skew>(load_or_calibrate({model_, prompts, device_, limits_, text}, wanted,
                                                         xdg_of_this_user().cache(), calibrate_hooks()));
  KvSelection& selection = options_.selection;
  if (model_.skew->context >= fits.positions || selection.rank > 0 || selection.selector == KvSelector::infinigen)
    return;
  selection.rank = model_.spec.shape.head_dim;
  selection.key_bits = 4;
  say(
      fmt::format("rehearsal: it was calibrated for {} positions, fewer than the {} of a sequence: partial keys are "
                  "whole keys in 4 bits (--rank {})",
                  model_.skew->context, fits.positions, selection.rank));
}

std::vector<std::pair<std::string, std::string>> Running::found() const {
  if (!made(model_.skew)) return {};
  const KvSelection& selection = options_.selection;
  return {{"skew of the rehearsal", spillway::fingerprint(model_.skew->checkpoint)},
          {kRank, std::to_string(selection.rank)},
          {kKeyBits, std::to_string(selection.key_bits)}};
}

void Running::keep_to(const std::vector<std::pair<std::string, std::string>>& found) {
  for (const auto& [name, value] : found) {
    if (name == kRank) options_.selection.rank = std::atoi(value.c_str());
    if (name == kKeyBits) options_.selection.key_bits = std::atoi(value.c_str());
  }
}

// What a plan needs of the skew: the one that is kept, or the sizes of the one that will be made.
void Running::use_kept_skew() {
  if (!options_.selection.foretells() || model_.skew) return;
  const std::string fingerprint = spillway::fingerprint(model_.checkpoint);
  const std::string path = skew_path(xdg_of_this_user().cache(), fingerprint, options_.selection.ahead);
  std::error_code ignored;
  try {
    if (std::filesystem::exists(path, ignored))
      model_.skew = std::make_unique<Skew>(open_skew(path, model_.spec, fingerprint));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) throw;  // such a one is made anew
  }
  if (!model_.skew) model_.skew = std::make_unique<Skew>(skew_to_come(model_.spec, options_.selection.ahead));
  if (options_.only_planned && !made(model_.skew))
    say("rehearsal: no skew of this model is kept yet; the first run makes it, or spillway calibrate");
}

}  // namespace spillway
