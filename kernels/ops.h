// Ops: what a device computes. All arguments are device memory; all work is enqueued on a stream and returns at once;
// descriptors (spans, parts, runs) are host values, consumed before the call returns. Nothing allocates in a step: the
// scratch is given at start.
//
// The result of a row never depends on how many rows (but for few_rows()), parts or tasks share the call, nor on the
// number of threads: that, with spans, is what makes every placement give the same bits (ARCHITECTURE.md, idea 6).
// `kernels/reference` (double, plain loops) is the specification; cpu and cuda implement it within rounding.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "kernels/device.h"
#include "kernels/experts.h"
#include "kernels/kv_span.h"
#include "kernels/selection.h"
#include "kernels/shape.h"
#include "kernels/view.h"

namespace spillway {

// out (+)= x . weight^T for one weight matrix [n x k], any weight type; out [m x n] f32.
struct MatmulPart {
  View weight;
  View out;
  bool add = false;  // add to what is in `out` (a residual) instead of replacing it

  bool operator==(const MatmulPart&) const = default;
};
inline constexpr int kMostMatmulParts = 4;

struct AttendShape {
  KvFormat format;
  int heads = 0;       // query heads; the group of query head h is KV head h / (heads / kv_heads)
  float scale = 1.0f;  // of the scores, 1 / sqrt(head_dim) as a rule
  int window = 0;      // attend_chunk: positions a query sees, its own among them; 0: all before it

  bool operator==(const AttendShape&) const = default;
};

// What `candidates` gives of a row of logits: the k largest in descending order, among equals the lower id first; their
// ids, the bits of int32; and the sum of exp(logit - largest) over the whole row, so that the probability of a
// candidate is exp(logit - largest) / sum. The sum is not a number where a logit is not a number or plus infinity, and
// where all are minus infinity; the candidates then mean nothing.
inline constexpr int kMostCandidates = 1024;
constexpr int candidate_floats(int k) { return 2 * k + 1; }

struct CandidateChoice {
  int k = 1;                           // up to kMostCandidates, and to the length of a row
  std::span<const int32_t> penalised;  // ids, all different, up to kMostPenalised; of every row
  float penalty = 1.0f;                // what their logits are divided by where positive, else multiplied by
};
inline constexpr int kMostPenalised = 4096;

// Rows of the tokens of a pass, with the angles of their positions, as rotate and append want them.
struct NewTokens {
  View q, k, v;
  RotationStyle style = RotationStyle::adjacent;
  View table;
};

class Ops {
 public:
  virtual ~Ops() = default;
  virtual const char* name() const = 0;

  // What keeps a model of this shape from being run, in one line; empty: nothing.
  virtual std::string why_not(const ModelShape&) const { return {}; }
  // Products of up to so many rows of x agree to the bit with one another, and so do those of more; the two may differ.
  // 0: all agree.
  virtual int few_rows() const { return 0; }

  // Scratch for calls of up to `rows` rows, and of decode steps of shape.context positions, with this model; given
  // before any other call, by one user at a time: the next may give its own when null has taken the last one's back.
  virtual uint64_t scratch_bytes(const ModelShape& shape, int rows) const = 0;
  virtual void set_scratch(const ModelShape& shape, std::byte* data, uint64_t bytes) = 0;

  // out [m x k] f32 = the rows [m x k] of any type, dequantised.
  virtual void dequantize(Stream&, View rows, View out) = 0;
  // RMS norm (arXiv 1910.07467): out = x / sqrt(mean(x^2) + eps) * weight; x, out [m x k] f32; weight [1 x k] f32.
  // out may be x.
  virtual void norm(Stream&, View x, View weight, float eps, View out) = 0;
  // Layer norm (arXiv 1607.06450): out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias; shapes as in norm,
  // bias as weight. out may be x.
  virtual void layer_norm(Stream&, View x, View weight, View bias, float eps, View out) = 0;
  // x += y, both f32; y [m x n] as x, or [1 x n] for every row of x.
  virtual void add(Stream&, View x, View y) = 0;
  // x *= factor; x f32.
  virtual void scale(Stream&, View x, float factor) = 0;
  // Up to kMostMatmulParts parts share x [m x k] f32. out rows may not overlap x.
  virtual void matmul(Stream&, View x, std::span<const MatmulPart> parts) = 0;
  // The same with the x of the matmul or matmul_more before, or the out of the norm_for_matmul, activate_for_matmul or
  // merge_for_matmul before, which nothing has written since: what was made of it then is used again.
  virtual void matmul_more(Stream& stream, View x, std::span<const MatmulPart> parts) { matmul(stream, x, parts); }
  // Rotates, in place, the first 2 * pairs elements of each head of x [m x heads * head_dim] f32. table [m x 2 * pairs]
  // f32: row i holds cos of pair 0, sin of pair 0, cos of pair 1, ... at row i's position (runtime/rotation.h).
  virtual void rotate(Stream&, View x, int head_dim, RotationStyle style, View table) = 0;
  // Writes k, v [m x kv_heads * head_dim] f32 into pages, converted to the format's type (round to nearest even).
  virtual void append(Stream&, View k, View v, const KvFormat&, std::span<const AppendRun> runs) = 0;
  // rotate of q and of k, then append of k and v, in one call: runs hold each row once. k is left in any state.
  virtual void rotate_append(Stream& stream, const NewTokens& tokens, const KvFormat& format,
                             std::span<const AppendRun> runs) {
    rotate(stream, tokens.q, format.head_dim, tokens.style, tokens.table);
    rotate(stream, tokens.k, format.head_dim, tokens.style, tokens.table);
    append(stream, tokens.k, tokens.v, format, runs);
  }
  // Packs full page rows by the format's codec, which is one that packs; head_dim is a multiple of 8. The bytes are the
  // same on every device (kernels/kv_codec.h).
  virtual void seal(Stream&, const KvFormat&, std::span<const SealRun> runs) = 0;
  // Decode: each task's query row (of q [m x heads * head_dim] f32) against all tokens of its span; the state goes to
  // its slot of states [slots x heads * attn_state_floats] f32.
  virtual void attend(Stream&, View q, const AttendShape&, std::span<const SpanTask> tasks, View states) = 0;
  // Prefill: query row i stands at position first_position + i and sees the span's tokens at positions up to its own.
  // Row i of states [m x heads * attn_state_floats] is folded with each span in turn; `fresh` starts from empty states.
  virtual void attend_chunk(Stream&, View q, int first_position, const AttendShape&, std::span<const KvSpan> spans,
                            View states, bool fresh) = 0;
  // Merges states in ascending order and divides: out [m x heads * head_dim] f32. A row whose states are all empty is
  // zero.
  virtual void merge(Stream&, View states, const AttendShape&, std::span<const MergeTask> tasks, View out) = 0;

  // A selection (kernels/selection.h; InfiniGen, arXiv 2406.19707, section 4.3), a decode step's in this order:
  //
  // The partial keys of the runs' tokens: (key - mean) . keys^T, rounded to half precision or packed, each token with a
  // scale of its own by kernels/kv_codec.h. A token's depend on its own key alone. format: F16.
  virtual void partial_keys(Stream&, const KvFormat& format, const PartialKeyFormat&, const PartialKeyBasis&,
                            std::span<const PartialKeyRun> runs) = 0;
  // How much of the attention of the query row q [1 x heads * head_dim] f32, rotated, each granule of `tokens`
  // positions would have, by partial keys: weights [kv_heads x granules] f32, granules = ceil(tokens / granule_tokens).
  // Each query head has a softmax over all tokens of shape.scale * (its q . queries^T) . partial key, where a code
  // stands for minimum + code * scale, not rounded; a granule's weight is the sum over its tokens and over the heads of
  // the group. rows: the partial keys of each page row in order, a host value. scores: scratch [heads x
  // score_columns(...)] f32, left in any state. Where a score is not a number, all weights of its KV head are none.
  virtual void score_keys(Stream&, View q, const AttendShape& shape, const PartialKeyFormat&, const PartialKeyBasis&,
                          std::span<const std::byte* const> rows, int tokens, int granule_tokens, View scores,
                          View weights) = 0;
  // The bounds (KeyBoundsFormat) of the granules that the runs' tokens are in, of what these hold up to the last token
  // of a run. format: F16.
  virtual void key_bounds(Stream&, const KvFormat& format, int granule_tokens, std::span<const PartialKeyRun> runs) = 0;
  // As score_keys, by bounds (Quest, arXiv 2406.10774, section 3.2): a granule's score is the most that any key within
  // its bounds could have, shape.scale * the sum over channels of max(q * smallest, q * largest); its weight is the sum
  // over the group's heads of the softmax over all granules, so that in a group of one they are ordered as published.
  // rows: the bounds of each page row in order, a host value. scores: scratch [heads x granules] f32, left in any
  // state.
  virtual void score_bounds(Stream&, View q, const AttendShape& shape, std::span<const std::byte* const> rows,
                            int tokens, int granule_tokens, View scores, View weights) = 0;
  // Accumulated attention (H2O, arXiv 2306.14048, section 4.2): sums [kv_heads x granules] f32, over query rows, a
  // group's heads and a granule's tokens, of the softmax weight that each has had. Adds that of a chunk, arguments and
  // window as of attend_chunk, whose final states say what the softmax is over; spans may come in any number of calls.
  // Granules that begin at first_position or later had none before. Packed keys give what their halves give.
  virtual void sum_attention(Stream&, View q, int first_position, const AttendShape&, std::span<const KvSpan> spans,
                             View states, int granule_tokens, View sums) = 0;
  // Adds that of a decode step over `tokens` positions, arguments as of attend_selected, whose states those are: to the
  // chosen granules, ids [kv_heads x kv.granules] i32. All others' sums [kv_heads x ceil(tokens / granule)] become no
  // numbers: they are never chosen again.
  virtual void sum_selected(Stream&, View q, const AttendShape&, const SelectedKv& kv, View ids, View states,
                            int tokens, View sums) = 0;
  // ids [kv_heads x choice.count] i32: the chosen granules of each row of weights [kv_heads x choice.granules] f32, in
  // ascending order, and kNoGranule behind them. What is not a number is below all numbers.
  virtual void choose_granules(Stream&, View weights, const GranuleChoice& choice, View ids) = 0;
  // As attend of the query row q [1 x heads * head_dim] f32, with the chosen granules in place of spans: the states of
  // granules [i * kv.granules_per_state(), ...) go to row i of states [kv.states() x heads * attn_state_floats] f32.
  // Packed granules give, to the bit, what the halves give that they stand for.
  virtual void attend_selected(Stream&, View q, const AttendShape&, const SelectedKv& kv, View states) = 0;

  // out = activation(gate) * up (SwiGLU, GeGLU, arXiv 2002.05202), or activation(gate) where up has no rows; all [m x
  // n] f32; out may be gate or up.
  virtual void activate(Stream&, Activation, View gate, View up, View out) = 0;
  // Chooses for each row the routes.used experts with the largest of its logits [m x experts] f32, among equals the
  // lower number first; what is no number is below all. An expert's weight is its share of the softmax over all of
  // them, or, normalised, over the chosen ones. Each row of x [m x k] f32 is copied to its places of `rows` [m * used x
  // k] f32.
  virtual void route(Stream&, View logits, View x, bool normalise, const ExpertRoutes& routes, View rows) = 0;
  // The rows of the experts that are here, in place: down . (activation(gate . row) * (up . row)), each product as by
  // matmul of all of the expert's rows. Rows of experts that are not here stay as they are. gate and up: [m * used x
  // ffn] f32 each, left in any state.
  virtual void experts(Stream&, Activation, const ExpertRoutes& routes, const ExpertWeights&, View rows, View gate,
                       View up) = 0;
  // x [m x k] f32 += the sum of each row's places in `rows` times their weights, in ascending order of experts.
  virtual void combine(Stream&, const ExpertRoutes& routes, View rows, View x) = 0;
  // The likeliest tokens: out [m x candidate_floats(k)] f32 of logits [m x n] f32, after a repetition penalty (arXiv
  // 1909.05858) that stays in `logits`.
  virtual void candidates(Stream&, View logits, const CandidateChoice&, View out) = 0;

  // norm, activate and merge of what matmul_more reads as x next: a device may make of it on the way what its products
  // want. Their out is the same.
  virtual void norm_for_matmul(Stream& stream, View x, View weight, float eps, View out) {
    norm(stream, x, weight, eps, out);
  }
  virtual void activate_for_matmul(Stream& stream, Activation kind, View gate, View up, View out) {
    activate(stream, kind, gate, up, out);
  }
  virtual void merge_for_matmul(Stream& stream, View states, const AttendShape& shape, std::span<const MergeTask> tasks,
                                View out) {
    merge(stream, states, shape, tasks, out);
  }

  // Layer `layer` of a decode step follows. Its calls come again with every step, and differ in nothing but
  // descriptors: a device may hold them back, until anything else is asked of the stream or the layers end, and enqueue
  // them as one.
  virtual void begin_layer(Stream&, int /*layer*/) {}
  virtual void end_layers() {}
  // One line on how the calls of layers were enqueued, and why not better; empty where there is nothing to say.
  virtual std::string layers_report() const { return {}; }
};

}  // namespace spillway
