#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <atomic>

namespace spillway {
namespace {

constexpr int64_t kRowsPerPackedTask = 64;
constexpr uint64_t kActBytesPerTask = 1 << 20;  // what a core's second cache keeps beside a tile

int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Tasks in ranges, one for each worker, who takes what others have left when its own is done: weights that are asked
// for ahead at the end of a task are then mostly those of the next.
class Ranges {
 public:
  static constexpr int kMost = 64;

  Ranges(int64_t tasks, int workers) : workers_(workers) {
    for (int w = 0; w < workers; w++) {
      ranges_[w].next.store(tasks * w / workers, std::memory_order_relaxed);
      ranges_[w].end = tasks * (w + 1) / workers;
    }
  }
  // Called as many times as there are tasks: each is given once.
  int64_t take(int worker) {
    for (int w = worker;; w = (w + 1) % workers_) {
      if (ranges_[w].next.load(std::memory_order_relaxed) >= ranges_[w].end) continue;
      const int64_t task = ranges_[w].next.fetch_add(1, std::memory_order_relaxed);
      if (task < ranges_[w].end) return task;
    }
  }

 private:
  struct alignas(64) Range {
    std::atomic<int64_t> next;
    int64_t end;
  };
  Range ranges_[kMost];
  int workers_;
};

// Tasks of one part: a grid of blocks of x rows (slow) by chunks of weight rows (fast).
struct Cut {
  int64_t rows_per_block = 0;  // of x
  int64_t rows_per_chunk = 0;  // of the weight
  int64_t blocks = 0;
  int64_t chunks = 0;
  int64_t tasks() const { return blocks * chunks; }
};

class Call {
 public:
  Call(const CpuKernels& kernels, Team& team, const MatmulCall& call, const MatmulScratch& scratch)
      : kernels_(kernels),
        team_(team),
        call_(call),
        scratch_(scratch),
        m_(call.x.rows),
        k_(call.x.cols),
        group_(m_ <= kInPlaceGroup ? m_ : kPackedGroup) {}

  void run() {
    bool quantised = false;
    int64_t weight_rows = 0;
    for (int i = 0; i < call_.count; i++) {
      quantised = quantised || is_quantised(call_.parts[i].weight.dtype);
      weight_rows += call_.parts[i].weight.rows;
    }
    if (quantised) quantise();
    int64_t tasks = 0;
    for (int i = 0; i < call_.count; i++) {
      cuts_[i] = cut(call_.parts[i], weight_rows);
      tasks += cuts_[i].tasks();
    }
    const auto task = [this](int64_t index, int worker) {
      int part = 0;
      for (; index >= cuts_[part].tasks(); part++) index -= cuts_[part].tasks();
      run_task(call_.parts[part], cuts_[part], index, worker);
    };
    if (tasks == 1) {
      task(0, 0);
    } else if (quantised && m_ <= kInPlaceGroup && team_.workers() <= Ranges::kMost) {
      Ranges ranges(tasks, team_.workers());
      team_.run(tasks, [&](int64_t, int worker) { task(ranges.take(worker), worker); });
    } else {
      team_.run(tasks, task);
    }
  }

 private:
  void quantise() {
    const int64_t blocks = k_ / 32;
    const auto rows = [&](int64_t first, int64_t end) {
      for (int64_t i = first; i < end; i++) {
        const int64_t group = i / group_;
        const int64_t members = std::min<int64_t>(group_, m_ - group * group_);
        ActBlock* out = scratch_.x + group * group_ * blocks + (i - group * group_);
        kernels_.quantize(call_.x.f32(i), blocks, out, members);
      }
    };
    constexpr int64_t kElementsPerTask = 16384;
    const int64_t rows_per_task = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(k_, 1));
    if (m_ <= rows_per_task) return rows(0, m_);
    team_.run(div_up(m_, rows_per_task),
              [&](int64_t task, int) { rows(task * rows_per_task, std::min(m_, (task + 1) * rows_per_task)); });
  }

  Cut cut(const MatmulPart& part, int64_t weight_rows) const {
    Cut c;
    const int64_t workers = team_.workers();
    if (!is_quantised(part.weight.dtype) && m_ >= kLeastBlockRows) {
      c.rows_per_chunk = kFloatCols;
      c.rows_per_block = kFloatRows;
    } else if (m_ <= kInPlaceGroup) {  // bound by reading the weights: enough chunks that the workers end together
      const int64_t fair = weight_rows / (workers * 16);
      c.rows_per_chunk = std::clamp<int64_t>(div_up(fair, kTileRows) * kTileRows, 32, 512);
      c.rows_per_block = m_;
    } else {
      c.rows_per_chunk = kRowsPerPackedTask;
      c.rows_per_block = packed_block(div_up(part.weight.rows, c.rows_per_chunk), workers);
    }
    c.blocks = div_up(m_, c.rows_per_block);
    c.chunks = div_up(part.weight.rows, c.rows_per_chunk);
    return c;
  }

  // Rows of x in a task: as many groups as share one packing and stay in cache, fewer where workers would be idle.
  int64_t packed_block(int64_t chunks, int64_t workers) const {
    constexpr int64_t kLeastGroups = 4;
    const int64_t groups = div_up(m_, group_);
    const int64_t cached = static_cast<int64_t>(kActBytesPerTask / act_bytes(group_, k_));
    const int64_t busy = groups * chunks / (workers * 4);
    return group_ * std::max(kLeastGroups, std::min({groups, cached, busy}));
  }

  void run_task(const MatmulPart& part, const Cut& c, int64_t task, int worker) const {
    const int64_t m0 = task / c.chunks * c.rows_per_block;
    const int64_t m1 = std::min(m_, m0 + c.rows_per_block);
    const int64_t n0 = task % c.chunks * c.rows_per_chunk;
    const int64_t n1 = std::min(part.weight.rows, n0 + c.rows_per_chunk);
    if (!is_quantised(part.weight.dtype)) return float_task(part, m0, m1, n0, n1, worker);
    int64_t n = n0;
    if (m_ <= kInPlaceGroup) {
      QuantProduct p = product(part, m0, m1, n0);
      p.rows = (n1 - n0) / kTileRows * kTileRows;
      if (p.rows > 0) kernels_.product_in_place(p);
      n += p.rows;
    }
    std::byte* tile = scratch_.workers + static_cast<uint64_t>(worker) * scratch_.bytes_per_worker;
    for (; n < n1; n += kTileRows) {
      const int rows = static_cast<int>(std::min<int64_t>(kTileRows, n1 - n));
      kernels_.pack(part.weight.dtype, part.weight.row(n), part.weight.stride, rows, k_ / 32, tile);
      for (int64_t m = m0; m < m1; m += group_) {
        QuantProduct p = product(part, m, std::min(m1, m + group_), n);
        p.weight = tile;
        p.rows = rows;
        kernels_.product_packed(p);
      }
    }
  }

  QuantProduct product(const MatmulPart& part, int64_t m, int64_t end, int64_t n) const {
    return {.dtype = part.weight.dtype,
            .weight = part.weight.row(n),
            .weight_stride = part.weight.stride,
            .rows = 0,
            .blocks = k_ / 32,
            .x = scratch_.x + m * (k_ / 32),
            .m = static_cast<int>(end - m),
            .out = part.out.f32(m) + n,
            .out_stride = part.out.stride,
            .add = part.add};
  }

  void float_task(const MatmulPart& part, int64_t m0, int64_t m1, int64_t n0, int64_t n1, int worker) const {
    kernels_.product_float({.dtype = part.weight.dtype,
                            .weight = part.weight.row(n0),
                            .weight_stride = part.weight.stride,
                            .n = n1 - n0,
                            .k = k_,
                            .x = call_.x.f32(m0),
                            .x_stride = call_.x.stride,
                            .m = m1 - m0,
                            .out = part.out.f32(m0) + n0,
                            .out_stride = part.out.stride,
                            .add = part.add,
                            .scratch = reinterpret_cast<float*>(scratch_.workers + static_cast<uint64_t>(worker) *
                                                                                       scratch_.bytes_per_worker)});
  }

  const CpuKernels& kernels_;
  Team& team_;
  const MatmulCall& call_;
  const MatmulScratch& scratch_;
  const int64_t m_;
  const int64_t k_;
  const int64_t group_;
  std::array<Cut, kMostMatmulParts> cuts_;
};

}  // namespace

void run_matmul(const CpuKernels& kernels, Team& team, const MatmulCall& call, const MatmulScratch& scratch) {
  if (call.x.rows == 0) return;
  Call(kernels, team, call, scratch).run();
}

}  // namespace spillway
