// Inspection: a model file as `spillway inspect` shows it.
#pragma once

#include <optional>
#include <string>

#include "loader/checkpoint.h"
#include "loader/model_spec.h"

namespace spillway {

struct Inspection {
  std::string path;  // as it was given
  Checkpoint checkpoint;
  std::optional<ModelSpec> spec;  // what its tensors mean; nothing where Spillway cannot run it
  std::string template_source;    // of the chat template; empty: it brings none
  int vocab = 0;                  // ids of its tokenizer; 0: none that is read
  // Why it cannot be run, or not be talked to; each one line, of the loader's own words.
  std::vector<std::string> problems;
};

// Throws Error(model) for what is no model file at all; what a model lacks to be run is a problem, no error.
Inspection inspect(const std::string& path);

// Texts of the file are made fit for a terminal. `all`: every tensor, and metadata in full.
std::string inspection_text(const Inspection& inspection, bool all);
// One object: path, format, name, family, files, parameters, weight_bytes, shape, types, tokenizer, chat_template,
// metadata (long arrays by their length), tensors, remarks (what of the files is ignored), problems.
std::string inspection_json(const Inspection& inspection);

}  // namespace spillway
