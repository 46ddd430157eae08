// How much of the true softmax weight a selection by foretold scores keeps: plain loops over what a prefill computed
// with (the full-attention trajectory), for the tests of a skew. Independent of the kernels and of the decode path.
#pragma once

#include <Eigen/Core>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/model.h"
#include "runtime/query_ridge.h"
#include "runtime/skew.h"

namespace spillway {

// Of each layer, the rotated keys of all positions; of the last rows, the input of attention and the queries.
class AttentionTrace final : public PassObserver {
 public:
  struct Layer {
    RowMatrixXf keys, inputs, queries, rotated;
  };

  AttentionTrace(const Model& model, int tokens, int last_rows);
  uint64_t attention_input(Stream& stream, int layer, View x) override;
  uint64_t queries(Stream& stream, int layer, View q) override;
  uint64_t rotated(Stream& stream, int layer, View q, View k) override;

  const Model& model;
  const int tokens, last_rows;
  std::vector<Layer> layers;

 private:
  void keep(Stream& stream, View rows, int first, RowMatrixXf& into);
  int begin_ = 0, seen_ = 0;
};

enum class Foretold : uint8_t { truly, by_ridge, by_own_matrix };

struct MassChoice {
  int rank = 0;
  int bits = 16;
  Foretold query = Foretold::by_ridge;
  bool principal = false;  // InfiniGen's directions
  bool truth = false;      // the oracle: true scores
  double share = 0.1;      // of the positions that are kept
  // Deliberate faults.
  int basis_shift = 0;  // the basis of the layer so many further on
  int head_shift = 0;   // and of the KV head
  int input_lag = 0;    // the input of so many tokens before
  int turned_to = 0;    // so many positions further on
  bool turned = true;
  bool biased = true;
  bool interleaved = false;  // query heads are dealt out to the KV heads one by one
  bool raw_scores = false;   // a group's scores are added up, not their softmaxes
};

// The queries of a layer as they are foretold for the last rows, before the norm of heads and the rotation [rows x
// heads * d].
RowMatrixXf foretell(const AttentionTrace& trace, const Skew& skew, int layer, const MassChoice& choice);

// The mean over layers from the second on, KV heads, and the last rows.
double kept_mass(const AttentionTrace& trace, const Skew& skew, const MassChoice& choice);

}  // namespace spillway
