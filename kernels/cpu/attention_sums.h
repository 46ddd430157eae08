// Ops::sum_attention and Ops::sum_selected on the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/team.h"
#include "kernels/ops.h"

namespace spillway {

struct SumAttentionCall {
  View q;
  int first_position = 0;
  AttendShape shape;
  std::vector<KvSpan> spans;
  View states;
  int granule_tokens = 0;
  View sums;
};
struct SumSelectedCall {
  View q;
  AttendShape shape;
  SelectedKv kv;
  View ids, states;
  int tokens = 0;
  View sums;
};

// What a page of a chunk's spans adds to the sums of one KV head.
void sum_page(const CpuKernels& kernels, const SumAttentionCall& call, const KvSpan& span, int page, int kv_head,
              float* scratch);
// What a decode step adds to those of one KV head.
void sum_head(const CpuKernels& kernels, const SumSelectedCall& call, int kv_head, float* scratch);

// scratch(worker): memory of float_scratch_floats.
template <typename Scratch>
void run_sum_attention(const CpuKernels& kernels, Team& team, const SumAttentionCall& call, const Scratch& scratch) {
  const int64_t kv_heads = call.shape.format.kv_heads;
  team.run(static_cast<int64_t>(call.spans.size()) * kPagesPerSpan * kv_heads, [&](int64_t task, int worker) {
    const int64_t page = task / kv_heads;
    const KvSpan& span = call.spans[static_cast<size_t>(page / kPagesPerSpan)];
    const auto in_span = static_cast<int>(page % kPagesPerSpan);
    if (in_span * kPageTokens >= span.tokens) return;
    sum_page(kernels, call, span, in_span, static_cast<int>(task % kv_heads), scratch(worker));
  });
}

}  // namespace spillway
