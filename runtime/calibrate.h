// Calibration: a model's skew from the prefill of a text (runtime/skew.h). The text is never one that quality is
// measured on; where none is given it is the project's own prose.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/session.h"
#include "runtime/skew.h"

namespace spillway {

struct CalibrationText {
  std::string name;
  std::string text;
  std::vector<int32_t> ids = {};  // in its place, where there is no tokenizer
};
// README, ARCHITECTURE and their like, as they were when this was built.
CalibrationText own_calibration_text();

struct CalibrateOptions {
  int context = 0;  // positions of the longest window; 0: as many as text and model allow, at most `window`
  int ahead = 1;
  QueryGuess guess = QueryGuess::ridge;
  uint64_t memory = uint64_t{2} << 30;  // for sums and solving: more layers than fit take another prefill

  // Windows of the text, each from position 0 on; a longer context adds one of its own.
  int window = 8192;        // positions
  int most_tokens = 16384;  // of the text, in these windows
};

struct CalibrateParts {
  const Model& model;
  const Options& options;
  const ChosenDevice& device;
  const SessionLimits& limits;
  const CalibrationText& text;
};

struct CalibrateHooks {
  // Tokens prefilled, of all passes over the text; may throw to end it.
  OnProgress on_prefill;
  std::function<void(std::string_view line)> said;
};

struct CalibrationReport {
  std::string path;
  int context = 0;
  int tokens = 0;                               // of the text
  int prefills = 0;                             // of all of it
  float least_strength = 0, most_strength = 0;  // of the layers' ridges
  // The mean square that is left of queries, as a share of their variance, on the half of the tokens that was not
  // fitted (which the window of a longer context may have read, at other positions): by the model's own matrix, and by
  // the corrected one; means of layers. Zero where the own one is taken.
  double gain_error = 0, ridge_error = 0;
  uint64_t memory = 0;  // of sums and solving
  double prefill_s = 0, solve_s = 0;
};

// Writes the skew to `path`, whole or not at all; makes its folder. Throws Error(usage) where the text has fewer
// tokens than a window, Error(fit) as a plan does.
CalibrationReport calibrate(const CalibrateParts& parts, const CalibrateOptions& options, const std::string& path,
                            const CalibrateHooks& hooks);

// The skew kept for this model below `folder`; where there is none, or one of fewer positions than `options.context`,
// it is made, of as many positions as the text has tokens for, and that is said. So the result may have been calibrated
// for fewer positions: its context says so.
Skew load_or_calibrate(const CalibrateParts& parts, const CalibrateOptions& options, const std::string& folder,
                       const CalibrateHooks& hooks);

}  // namespace spillway
