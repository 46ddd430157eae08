// What calibration gathers of each layer while a text is prefilled: sums over its positions, on the host.
#pragma once

#include <Eigen/Core>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "loader/model_spec.h"
#include "runtime/pass.h"
#include "runtime/query_ridge.h"

namespace spillway {

struct LayerSums {
  static constexpr int kSampledPositions = 512;

  // For each KV head, of rotated queries (of its whole group) and keys: sums of products and of keys.
  std::vector<Eigen::MatrixXd> queries, keys;  // [d x d]
  std::vector<Eigen::VectorXd> key_sums;
  double positions = 0;
  std::vector<Eigen::MatrixXf> sample;  // of the queries, for each KV head [rows x d]
  int sampled = 0;                      // rows of it
  // Of the normalised input that foretells the layer's query, and that query; for each half of the text. Empty where
  // the layer sees its own input, and where the model's own matrix is to foretell.
  std::vector<QueryMoments> halves;
  Eigen::VectorXf shift;  // taken from the inputs
};

struct CalibrationShape {
  int ahead = 1;
  bool ridge = true;
  int chunk = 1;    // rows of a pass at most
  int tokens = 0;   // of the whole text
  int threads = 0;  // of products
};

class CalibrationSums final : public PassObserver {
 public:
  // Of these layers alone. `device`: whose memory is looked at; it outlives this.
  CalibrationSums(const ModelSpec& spec, const CalibrationShape& shape, std::vector<int> layers, Device& device);
  ~CalibrationSums() override;

  // Host memory for one layer.
  static uint64_t bytes(const ModelSpec& spec, const CalibrationShape& shape);

  uint64_t attention_input(Stream&, int layer, View x) override;
  uint64_t queries(Stream&, int layer, View q) override;
  uint64_t rotated(Stream&, int layer, View q, View k) override;

  std::span<const int> layers() const { return layers_; }
  LayerSums& of(size_t index) { return sums_[index]; }

 private:
  int source(int layer) const { return layer < shape_.ahead ? layer : layer - shape_.ahead; }
  LayerSums* find(int layer);
  bool foretells(int layer);
  uint64_t copy(Stream& stream, View from, std::byte* to);
  void add_grams(LayerSums& sums, int rows);
  void add_moments(LayerSums& sums, int layer, int rows);

  const ModelSpec& spec_;
  CalibrationShape shape_;
  std::vector<int> layers_;
  Device& device_;
  std::vector<LayerSums> sums_;
  std::vector<int> index_;    // of each of the model's layers in sums_; -1: not looked at
  int begin_ = 0, seen_ = 0;  // tokens before this chunk, and up to its end
  // Host memory that the device copies to: inputs of the last `ahead` + 1 layers, then queries before and after the
  // rotation, and keys.
  uint64_t block_bytes_ = 0;
  std::byte* block_ = nullptr;
  std::vector<std::byte*> inputs_;
  std::byte *queries_ = nullptr, *rotated_ = nullptr, *keys_ = nullptr;
  // Products by the CPU's kernels; inputs and queries are transposed for them.
  std::unique_ptr<Device> cpu_;
  std::unique_ptr<Stream> products_;
  std::vector<std::byte> scratch_;
  std::vector<float> inputs_transposed_, queries_transposed_;
};

}  // namespace spillway
