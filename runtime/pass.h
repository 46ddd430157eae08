// Pass: one forward pass of one sequence over all layers: a chunk of a prompt, or one decode step. Everything is
// enqueued; nothing is waited for but the free half of the host inputs and, where not all experts are on the device,
// each layer's choice of them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/ops.h"
#include "kernels/trace.h"
#include "loader/model_spec.h"
#include "prefetch/expert_feed.h"
#include "prefetch/kv_feed.h"
#include "prefetch/weight_feed.h"
#include "runtime/rehearsal.h"
#include "runtime/rotation.h"
#include "runtime/vectors.h"
#include "runtime/workspace.h"

namespace spillway {

struct PassParts {
  const ModelSpec& spec;
  const Checkpoint& checkpoint;
  Ops& ops;
  Stream& compute;
  const WeightHome& weights;
  WeightFeed& weight_feed;
  ExpertFeed* experts;  // null where there are none
  KvCache& kv;
  KvFeed& kv_feed;
  Rehearsal* rehearsal;  // null where decode steps read all of the KV
  const Workspace& workspace;
  const ModelVectors& vectors;
  int context;                       // positions planned for
  std::span<std::byte> host_inputs;  // two halves, filled in turn, and the device's choice of experts
  Traffic& traffic;                  // counts that choice,
  bool far = false;                  // where the device's memory is not the host's
  int first_layer = 0;               // of the model, where these are not all of its layers
};

// Rows of the residual stream between two stretches of layers, in memory that the device of the second copies from.
struct Handover {
  View x;                 // [rows x hidden] f32
  Event ready;            // written
  Event* free = nullptr;  // to be set: the copy has been made
};

// In place of a row of logits, its likeliest tokens (kernels/ops.h).
struct RowChoice {
  CandidateChoice candidates;  // k up to a quarter of the row
  int vocab = 0;               // columns of a row that are tokens, the first ones
};

// Looks at what attention computes with, layer by layer, while it is there: each call may enqueue on the stream, and
// wait for it; it returns how many bytes it copied to the host. Calibration looks; a run has no observer.
class PassObserver {
 public:
  virtual ~PassObserver() = default;
  // Rows of the residual stream that the layer's attention norm reads [rows x hidden].
  virtual uint64_t attention_input(Stream&, int layer, View x) = 0;
  // Queries with their bias, before the norm of heads and before the rotation [rows x heads * head_dim].
  virtual uint64_t queries(Stream&, int layer, View q) = 0;
  // Queries and keys as attention sees them; keys [rows x kv_heads * head_dim].
  virtual uint64_t rotated(Stream&, int layer, View q, View k) = 0;
};

struct PassInput {
  SequenceId sequence = 0;
  std::span<const int32_t> tokens;
  bool decode = false;                // one token by the decode path; else a chunk by the prefill path
  int logit_rows = 1;                 // logits of so many rows, the last ones
  const RowChoice* choice = nullptr;  // of each of these rows; null: the rows are wanted whole
  // Of the pass expected after this one, whose first weights are fetched while this one ends; kNoPass: none is
  // expected.
  int next_logit_rows = kNoPass;
  static constexpr int kNoPass = -1;
  bool next_decodes = true;  // that pass
  PassObserver* observer = nullptr;
};

class Pass {
 public:
  explicit Pass(const PassParts& parts);

  // Called, in order, with rows of logits, or of what was chosen from them, as they are enqueued: [first_row, first_row
  // + logits.rows) of the pass, in device memory, valid until the callback's stream work is done; the callback
  // synchronises the stream.
  using OnLogits = std::function<void(int first_row, View logits)>;
  // `from`: where these layers are not the model's first; returns what the next stretch begins with.
  Handover run(const PassInput& input, const Handover& from, const OnLogits& on_logits);
  // Of host memory that reaches the device for each token of a pass.
  uint64_t input_bytes_per_token() const;

 private:
  void load_inputs(const PassInput& input, int first_position);
  void take_over(const Handover& from);
  void embed(const PassInput& input, int first_position, std::byte* host);
  void copy_angles(int first_position, int rows, std::byte* host);
  void blocks(const PassInput& input, int first_position);
  void block(int layer, const PassInput& input, int first_position);
  void norm(View x, View weight, View bias, View out);
  void norm_for_matmul(View x, View weight, View bias, View out);
  void add_bias(View x, View bias);
  void norm_heads(View x, View weight);
  void contribute(Stage stage, int layer, View x, View bias, View post_norm);
  void feed_forward(int layer);
  void mix_experts(int layer, bool decode);
  void run_experts(int layer, const ExpertRoutes& routes, std::span<const ExpertFeed::Here> here);
  std::span<const int> choice(const ExpertRoutes& routes);
  void foretell(int layer, const PassInput& input, int tokens);
  void append(int layer, const PassInput& input, int rows);
  View angles(int layer, int rows) const;
  bool chooses(bool decode, int tokens) const;
  KvReading reading(bool decode, int tokens) const;
  int attend_chosen(int layer, const PassInput& input, const AttendShape& shape, int tokens);
  int attend_spans(int layer, const PassInput& input, const AttendShape& shape, int first_position);
  void each_group(int layer, int tokens, const std::function<void(std::span<const KvSpan>)>& read);
  void rotate_observed(int layer, PassObserver& observer, View table);
  void count_observed(uint64_t bytes);
  void attend(int layer, const PassInput& input, int first_position, int rows);
  void pack(int layer);
  void project(Stage stage, int layer, View x, std::initializer_list<View> outs, bool add);
  void multiply(Stage stage, View x, std::span<const MatmulPart> parts, bool more);
  void head(const PassInput& input, int rows, const OnLogits& on_logits);
  View chosen(View logits, const RowChoice& choice);
  int head_sweeps(int logit_rows) const;

  PassParts p_;
  Trace::Track track_;  // of what the host enqueues
  std::vector<const char*> layer_names_;
  std::vector<Rotation> rotations_;
  View x_, h_, q_, k_, v_, attn_, gate_, up_;  // of this pass's rows
  uint32_t next_unit_ = 0;
  int next_expert_ = 0;                  // the first of the next layer's among the experts' units
  std::vector<ExpertData> expert_data_;  // of a call: those that are here
  std::vector<ExpertFeed::Here> all_experts_;
  std::vector<int> chosen_;
  bool made_for_matmul_ = false;  // what the next projection reads (Ops::norm_for_matmul and its like)
  int half_ = 0;
  Event half_free_[2];
  Event x_free_;  // the stretch that follows has copied it
};

}  // namespace spillway
