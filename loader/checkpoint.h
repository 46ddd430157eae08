// Checkpoint: a model's files as named extents and typed facts, whatever the format. Nothing is copied or converted.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "kernels/view.h"
#include "memory/extent.h"
#include "memory/file.h"

namespace spillway {

struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  int64_t rows = 1;     // output features; 1 for a vector
  int64_t cols = 0;     // input features, contiguous
  int64_t stacked = 1;  // matrices of as many rows each that lie one after the other; `rows` counts those of all
  Extent extent;
};

using MetaArray = std::variant<std::vector<std::string>, std::vector<double>, std::vector<int64_t>>;
using MetaValue = std::variant<bool, int64_t, double, std::string, MetaArray>;

struct Checkpoint {
  std::vector<File> files;  // the parts of a split model in order
  std::map<std::string, MetaValue> meta;
  std::map<std::string, TensorInfo> tensors;
  // Where keys and tensors have GGUF's names here and others in the user's files (Hugging Face), for messages: the file
  // that the keys are from, and its names of them.
  std::string config;
  std::map<std::string, std::string> config_names;
  // Tensors of types that are not read, by the names of messages, and the message where one of them is asked for.
  std::map<std::string, std::string> unread;
  std::vector<std::string> remarks;  // what of the files is not computed with, a line each

  // Typed look-ups. Missing or of another type: the fallback, or Error(model) naming file and key where there is none.
  int64_t integer(const std::string& key, std::optional<int64_t> fallback = {}) const;
  double number(const std::string& key, std::optional<double> fallback = {}) const;
  std::string text(const std::string& key, std::optional<std::string> fallback = {}) const;
  const std::vector<std::string>* strings(const std::string& key) const;  // null when absent
  const TensorInfo* find(const std::string& name) const;                  // null when absent
  const TensorInfo& require(const std::string& name) const;               // Error(model) naming the tensor
  // Whether it is there; Error(model) where it is, in a type that is not read.
  bool has(const std::string& name) const;
  const std::string& path() const { return files.front().path(); }
  // What messages speak of: the file that holds the keys, a key of it, a tensor that is there or not.
  const std::string& meta_path() const { return config.empty() ? path() : config; }
  std::string key_name(const std::string& key) const;
  std::string tensor_name(const std::string& name) const;
  uint64_t weight_bytes() const;
};

// Reads the header of a GGUF (v2 or v3; the first part of a split one opens all). Every count, size and offset is
// checked against the file before it is believed; Error(model) names file and offset.
Checkpoint open_gguf(const std::string& path);
// A GGUF file, or a Hugging Face model directory.
Checkpoint open_model(const std::string& path);

}  // namespace spillway
