// Writes the file of a skew, layer after layer, whole or not at all.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kernels/whole_file.h"
#include "runtime/skew.h"
#include "runtime/skew_solver.h"

namespace spillway {

class SkewWriter {
 public:
  // `facts`: all of the skew but its layers, which come in the order of the groups. Throws Error(io).
  SkewWriter(const std::string& path, const ModelSpec& spec, const Skew& facts,
             const std::vector<std::vector<int>>& groups);
  void add(const SolvedLayer& layer);
  void commit() { file_.commit(); }

 private:
  void put(std::span<const std::byte> bytes);
  WholeFile file_;
};

}  // namespace spillway
