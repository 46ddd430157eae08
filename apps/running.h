// Running: what generate and chat share: open the model, say what runs where, stream the answer, report.
#pragma once

#include <memory>
#include <string>

#include "apps/flags.h"
#include "apps/progress.h"
#include "runtime/generate.h"
#include "runtime/session.h"

namespace spillway {

class Running {
 public:
  explicit Running(const RunFlags& flags);
  ~Running();

  const Model& model() const { return model_; }
  const Tokenizer& tokenizer() const { return *model_.tokenizer; }
  // Plans for that many positions (unless -c says otherwise), says what runs where, reserves and loads.
  Engine& start(int positions);
  GenerateHooks hooks();
  // Ends the text and reports as the flags ask; returns the exit code.
  int finish(const Generation& generation);

 private:
  const RunFlags& flags_;
  Options options_;
  Model model_;
  ChosenDevice device_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Progress> prefill_progress_;
  double load_s_ = 0;
};

}  // namespace spillway
