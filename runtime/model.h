// Model: a file opened and understood, nothing read of its weights yet.
#pragma once

#include <memory>
#include <string>

#include "loader/checkpoint.h"
#include "loader/model_spec.h"
#include "loader/tokenizer.h"
#include "runtime/skew.h"

namespace spillway {

struct Model {
  Checkpoint checkpoint;
  ModelSpec spec;
  std::unique_ptr<Tokenizer> tokenizer;  // null where there is none and no text was asked for
  std::unique_ptr<Skew> skew = {};       // of a rehearsal; null where there is none

  static Model open(const std::string& path, bool text = true) {
    Model model{.checkpoint = open_model(path), .spec = {}, .tokenizer = nullptr};
    model.spec = read_model_spec(model.checkpoint);
    if (text || has_tokenizer(model.checkpoint)) model.tokenizer = make_tokenizer(model.checkpoint);
    return model;
  }
};

}  // namespace spillway
