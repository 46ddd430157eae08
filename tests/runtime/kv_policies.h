// What the tests of KV policies share: a tiny model, a prompt of many pages, and budgets that hold all or nearly
// nothing.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "runtime/engine.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {

inline constexpr uint64_t kPlenty = 1ull << 30;
inline constexpr uint64_t kStaging = (6ull << 20) + (64 << 10);  // the least that staging takes of the host
inline constexpr int kVocab = 320, kPrompt = 14 * kPageTokens + 37, kDecoded = 40, kKept = 72, kLayers = 4;

inline KvSelection policy(KvRetention keep, KvSelector selector = KvSelector::all) {
  return {.selector = selector, .keep = keep, .tokens = kKept, .whole_layers = 1};
}

inline std::string name_of(const KvSelection& selection, KvCodec codec) {
  return std::string("--kv-keep ") + kKvRetentionNames[static_cast<int>(selection.keep)] + " --kv-select " +
         kKvSelectorNames[static_cast<int>(selection.selector)] + " --kv-type " + info(codec).name;
}

class KvPolicies : public ::testing::Test {
 protected:
  KvPolicies()
      : model_(open_for_test(write_tiny_model({.layers = kLayers,
                                               .hidden = 64,
                                               .heads = 4,
                                               .kv_heads = 2,
                                               .head_dim = 32,
                                               .ffn = 96,
                                               .vocab = kVocab,
                                               .type = DType::q8_0,
                                               .seed = 9,
                                               .name = "policies"},
                                              ::testing::TempDir()))),
        device_(make_cpu_device({.threads = 2})) {}

  // Prompts come in chunks, of which the later ones read what has left the device.
  static Options options(const KvSelection& selection, KvCodec codec = KvCodec::f16) {
    Options options;
    options.device_bytes = kPlenty;
    options.context = kPrompt + kDecoded + 64;
    options.chunk = kPageTokens;
    options.kv_codec = codec;
    options.kv_edge_layers = 1;
    options.selection = selection;
    options.disk_directory = ::testing::TempDir();
    return options;
  }
  // Nearly all KV is on the host, or on disk.
  static Options tight(Options options, bool on_disk) {
    options.device_bytes = 128 << 10;
    options.host_bytes = on_disk ? kStaging : kStaging + (8 << 20);
    options.disk_bytes = 8 << 20;
    return options;
  }
  Engine engine(Options options) { return raised_engine(model_, options, *device_); }

  static std::vector<float> decode(Engine& engine, SequenceId sequence, std::span<const int32_t> tokens) {
    std::vector<float> rows;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const auto row = engine.decode(sequence, tokens[i], i + 1 < tokens.size());
      rows.insert(rows.end(), row.begin(), row.end());
    }
    return rows;
  }

  Model model_;
  std::unique_ptr<Device> device_;
  const std::vector<int32_t> prompt_ = random_ids(7, kPrompt, kVocab), decoded_ = random_ids(8, kDecoded, kVocab);
};

}  // namespace spillway
