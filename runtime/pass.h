// Pass: one forward pass over all layers, of one sequence or of several: of each a chunk of its prompt, or one decode
// step. Everything is enqueued; nothing is waited for but the free half of the host inputs and, where not all experts
// are on the device, each layer's choice of them.
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
  int positions;                     // of one sequence, planned for
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

// What one sequence has in a pass.
struct PassPart {
  SequenceId sequence = 0;
  std::span<const int32_t> tokens;
  bool decode = false;  // one token by the decode path; else a chunk by the prefill path
  int logit_rows = 1;   // logits of so many rows, the last ones
};

// The pass expected after this one, whose first weights and KV are fetched while this one ends.
struct NextPass {
  int logit_rows = kNone;  // of all its parts; kNone: no pass is expected
  static constexpr int kNone = -1;
  bool decodes = true;
  std::span<const SequenceId> sequences;
};

struct PassInput {
  std::span<const PassPart> parts;  // of sequences that all differ; those of up to Ops::few_rows() rows come first
  // Each part is multiplied by the kernels that it has alone (Ops::few_rows); true: by those that all rows together
  // have, which is faster, and rounds differently.
  bool any_kernel = false;
  const RowChoice* choice = nullptr;  // of each row of logits; null: the rows are wanted whole
  NextPass next;
  PassObserver* observer = nullptr;  // of a pass of one part
  // > 0: a prompt, whose queries see so many positions at most: what then stands in the cache costs little time and
  // means nothing. For measures of speed behind long contexts.
  int prompt_window = 0;

  int rows() const;
  int logit_rows() const;
  bool decodes() const;  // all parts do
};

class Pass {
 public:
  explicit Pass(const PassParts& parts);

  // Called, in order, with rows of logits, or of what was chosen from them, as they are enqueued: [first, first +
  // logits.rows) of those that the parts want, in device memory, valid until the callback's stream work is done; the
  // callback synchronises the stream.
  using OnLogits = std::function<void(int first, View logits)>;
  // `from`: where these layers are not the model's first; returns what the next stretch begins with.
  Handover run(const PassInput& input, const Handover& from, const OnLogits& on_logits);
  // Of host memory that reaches the device for each token of a pass.
  uint64_t input_bytes_per_token() const;

 private:
  // A part and where it stands: its rows of the pass, and the position of the first of them.
  struct Placed {
    const PassPart& part;
    int first_row, first_position;
    int rows() const { return static_cast<int>(part.tokens.size()); }
    int tokens() const { return first_position + rows(); }  // of the sequence, after the pass
  };

  void place_parts(const PassInput& input);
  void plan_feeds(const PassInput& input);
  void load_inputs();
  void take_over(const Handover& from);
  void embed(std::byte* host);
  void copy_angles(std::byte* host);
  void blocks(const PassInput& input);
  void block(int layer, const PassInput& input);
  void norm(View x, View weight, View bias, View out);
  void norm_for_matmul(View x, View weight, View bias, View out);
  void add_bias(View x, View bias);
  void norm_heads(View x, View weight);
  void contribute(Stage stage, int layer, View x, View bias, View post_norm);
  void feed_forward(int layer);
  void mix_experts(int layer);
  void mix_experts(int layer, int first_row, int rows, bool decode);
  void run_experts(int layer, const ExpertRoutes& routes, std::span<const ExpertFeed::Here> here);
  std::span<const int> choice(const ExpertRoutes& routes);
  void foretell(int layer);
  void append(int layer, const PassInput& input);
  KvGrowth grow(int layer);
  View angles(int layer, int rows) const;
  void find_choosers();
  void expect(const NextPass& next);
  KvReading reading(bool decode, int tokens) const;
  int attend_part(int layer, const Placed& one, const AttendShape& shape, int first_state);
  void attend_chosen(int layer, const AttendShape& shape);
  int attend_choice(int layer, const Rehearsal::Step& step, const AttendShape& shape, int first_state);
  int attend_spans(int layer, const Placed& one, const AttendShape& shape, int first_state);
  void attend_chunk(int layer, const Placed& one, const AttendShape& shape, int first_state);
  void each_group(int layer, const Placed& one, const std::function<void(std::span<const KvSpan>)>& read);
  void attend_pending(const AttendShape& shape);
  void rotate_observed(int layer, PassObserver& observer, View table);
  void count_observed(uint64_t bytes);
  void attend(int layer);
  void pack(int layer);
  void project(Stage stage, int layer, View x, std::initializer_list<View> outs, bool add);
  void multiply(Stage stage, View x, std::span<const MatmulPart> parts, bool more);
  void multiply_rows(View x, std::span<const MatmulPart> parts, int64_t row, int64_t rows);
  void head(const PassInput& input, const OnLogits& on_logits);
  void norm_wanted(int first, View out);
  View chosen(View logits, const RowChoice& choice);
  int head_sweeps(int logit_rows) const;

  PassParts p_;
  Trace::Track track_;  // of what the host enqueues
  std::vector<const char*> layer_names_;
  std::vector<Rotation> rotations_;
  std::vector<Placed> parts_;
  std::vector<SequenceId> sequences_;
  std::vector<Rehearsal::Step> choosers_;  // all parts, or none
  int few_rows_ = 0;             // rows of the pass, the first ones, that go to the kernels of few rows in groups
  bool all_together_ = true;     // or all of them as the kernels like
  bool head_together_ = false;   // the head's rows too
  std::vector<SpanTask> tasks_;  // of decode steps, whose bytes are there
  std::vector<MergeTask> merges_;
  View x_, h_, q_, k_, v_, attn_, gate_, up_;  // of this pass's rows
  uint32_t next_unit_ = 0;
  int prompt_window_ = 0;                // of this pass's input
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
