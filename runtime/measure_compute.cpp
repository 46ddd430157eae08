// Speeds of memory, copies and the matrix product, through the device that will run the model.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <utility>

#include "kernels/check.h"
#include "kernels/cpu/team.h"
#include "kernels/ops.h"
#include "kernels/reference/dequantize.h"
#include "memory/extent.h"
#include "memory/format_bytes.h"
#include "runtime/measure.h"

namespace spillway {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kLeastBytes = 16 * kMiB;
constexpr int64_t kChunkRows = 256;  // of a prefill
constexpr int64_t kRowStep = 64;
constexpr int64_t kCallWidth = 512;  // of an operation on hardly any data
constexpr uint64_t kReadPieceBytes = 256 << 10;
constexpr uint64_t kMostSet = 256 * kMiB;
// Copies within the device between two waits of the host: each is soon done.
constexpr int kDeviceCopies = 8;

constexpr uint64_t kWideSet = 128 * kMiB;   // with more, a GPU's matrices are wide
constexpr uint64_t kAsideBytes = 8 * kMiB;  // rows of x and of the result, scratch
constexpr uint64_t kWideAsideBytes = 24 * kMiB;

// Columns and most rows of the matrices. On a device that runs apart from the host a product must be so long that its
// launch is not what is measured.
struct MatrixSize {
  int64_t width;
  int64_t most_rows;
};
MatrixSize matrix_size(const Device& device, uint64_t set) {
  return device.host_addressable() || set <= kWideSet ? MatrixSize{2048, 2048} : MatrixSize{4096, 16384};
}

// Device or host memory of the device, returned at the end.
class Block {
 public:
  Block(Device& device, bool host, uint64_t bytes)
      : device_(device), host_(host), bytes_(bytes), data_(host ? device.reserve_host(bytes) : device.reserve(bytes)) {}
  ~Block() { host_ ? device_.release_host(data_, bytes_) : device_.release(data_, bytes_); }
  Block(const Block&) = delete;
  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  Device& device_;
  bool host_;
  uint64_t bytes_;
  std::byte* data_;
};

// The best rate of several passes within the time: whatever disturbs a measurement only makes it slower.
template <typename Pass>
double best_rate(double seconds, const Pass& pass) {
  const double begin = seconds_now();
  double best = 0, elapsed = 0;
  for (int passes = 0; passes < 2 ? elapsed < 2 * seconds : elapsed < seconds; ++passes) {
    const double start = seconds_now();
    const double amount = pass(passes);
    const double end = seconds_now();
    best = std::max(best, amount / std::max(end - start, 1e-9));
    elapsed = end - begin;
  }
  return best;
}

uint64_t last_cache_bytes() {
  const long bytes = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
  return bytes > 0 ? static_cast<uint64_t>(bytes) : 32 * kMiB;
}

uint64_t sum_words(const std::byte* data, uint64_t bytes) {
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  uint64_t sums[4] = {};
  for (uint64_t i = 0; i + 4 <= bytes / 8; i += 4) {
    for (uint64_t j = 0; j < 4; ++j) sums[j] += words[i + j];
  }
  return sums[0] + sums[1] + sums[2] + sums[3];
}

// One valid row of the type: no scale that is infinite or so small that arithmetic turns slow.
void fill_row(DType type, int64_t width, std::byte* row, std::mt19937_64& random) {
  if (!is_quantised(type)) {
    for (int64_t i = 0; i < width; ++i) {
      const float value = static_cast<float>(static_cast<int64_t>(random() >> 32) - (1ll << 31)) * 0x1p-36f;
      store_row(type, &value, 1, row + row_bytes(type, i));
    }
    return;
  }
  with_block_type(type, [&]<typename Block>(Block block) {
    for (int64_t i = 0; i < width; i += Block::kElements, row += sizeof block) {
      for (size_t at = 0; at < sizeof block; ++at)
        reinterpret_cast<std::byte*>(&block)[at] = static_cast<std::byte>(random());
      block.d = f32_to_f16(0x1p-10f);
      if constexpr (requires { block.m; }) block.m = f32_to_f16(-0x1p-7f);
      if constexpr (requires { block.dmin; }) block.dmin = f32_to_f16(0x1p-7f);
      std::memcpy(row, &block, sizeof block);
    }
  });
}

class ComputeMeter {
 public:
  ComputeMeter(Device& device, const ComputeWishes& wishes, uint64_t set)
      : device_(device),
        wishes_(wishes),
        size_(matrix_size(device, set)),
        block_(device, false, set),
        host_(device, true, host_bytes(set)),
        copies_(device.make_copy_stream("measure copies")),
        compute_(device.make_compute_stream("measure compute")),
        x_(device, false, kChunkRows * size_.width * 4),
        out_(device, false, kChunkRows * size_.most_rows * 4),
        scratch_(device, false,
                 align_up(std::max<uint64_t>(device.ops().scratch_bytes(shape(), kChunkRows), 1), kDiskAlign)) {
    std::generate_n(reinterpret_cast<uint64_t*>(host_.data()), host_.bytes() / 8,
                    [i = uint64_t{0}]() mutable { return i++ * 0x9E3779B97F4A7C15u; });
    for (uint64_t at = 0; at < block_.bytes(); at += host_.bytes()) {
      copies_->copy(block_.data() + at, host_.data(), std::min(host_.bytes(), block_.bytes() - at));
    }
    copies_->synchronize();
    device_.ops().set_scratch(shape(), scratch_.data(), scratch_.bytes());
  }
  ~ComputeMeter() { device_.ops().set_scratch({}, nullptr, 0); }

  // Half the set, in whole pages: the other side of copies.
  static uint64_t host_bytes(uint64_t set) { return align_down(set / 2, kDiskAlign); }

  double copy_speed(bool to_device, double seconds) {
    return best_rate(seconds, [&](int pass) {
      std::byte* place = block_.data() + (pass % 2) * host_.bytes();
      copies_->copy(to_device ? place : host_.data(), to_device ? host_.data() : place, host_.bytes());
      copies_->synchronize();
      return static_cast<double>(host_.bytes());
    });
  }

  // Bytes read and bytes written by copies from one half of the block to the other.
  double device_speed(double seconds) {
    const uint64_t half = block_.bytes() / 2;
    return best_rate(seconds, [&](int) {
      for (int i = 0; i < kDeviceCopies; ++i) copies_->copy(block_.data() + half, block_.data(), half);
      copies_->synchronize();
      return 2.0 * kDeviceCopies * static_cast<double>(half);
    });
  }

  // By all workers, each pinned; on a thread of its own, so that the caller stays where it is.
  double read_speed(double seconds) {
    const Block& from = device_.host_addressable() ? block_ : host_;
    double speed = 0;
    std::thread([&] {
      Team team(wishes_.threads);
      team.bind_caller();
      std::vector<uint64_t> sums(static_cast<size_t>(team.workers()) * 8);  // a cache line each
      speed = best_rate(seconds, [&](int) {
        team.run(static_cast<int64_t>(from.bytes() / kReadPieceBytes), [&](int64_t task, int worker) {
          const std::byte* piece = from.data() + static_cast<uint64_t>(task) * kReadPieceBytes;
          sums[static_cast<size_t>(worker) * 8] += sum_words(piece, kReadPieceBytes);
        });
        return static_cast<double>(from.bytes() / kReadPieceBytes * kReadPieceBytes);
      });
      sink_ = sums[0];
    }).join();
    return speed;
  }

  // Of the smallest of a step's operations, enqueued one behind the other.
  double call_seconds(double seconds) {
    constexpr int kCalls = 64;
    const View x = View::dense(x_.data(), DType::f32, 1, kCallWidth);
    const View weight = View::dense(out_.data(), DType::f32, 1, kCallWidth);
    return 1 / best_rate(seconds, [&](int) {
             for (int i = 0; i < kCalls; ++i) device_.ops().norm(*compute_, x, weight, 1e-5f, x);
             compute_->synchronize();
             return static_cast<double>(kCalls);
           });
  }

  // One query over spans that follow one another through the whole block: keys and values like those of a model.
  double attention_speed(const HeadShape& heads, double seconds) {
    const AttendShape shape{{DType::f16, heads.kv_heads, heads.head_dim}, heads.heads, 0.1f};
    const uint64_t row = shape.format.row_of_pages_bytes();
    const int64_t state = int64_t{heads.heads} * attn_state_floats(heads.head_dim);
    const auto rows = static_cast<int64_t>(block_.bytes() / row);
    const int64_t slots = std::min<int64_t>(rows / kPagesPerSpan, static_cast<int64_t>(out_.bytes() / 4) / state);
    if (slots == 0 || static_cast<uint64_t>(heads.heads) * heads.head_dim * 4 > x_.bytes()) return 0;
    fill_with_halves();
    const View q = View::dense(x_.data(), DType::f32, 1, int64_t{heads.heads} * heads.head_dim);
    const View states = View::dense(out_.data(), DType::f32, slots, state);
    int64_t next = 0;
    return best_rate(seconds, [&](int) {
      std::vector<SpanTask> tasks(static_cast<size_t>(slots));
      for (int64_t slot = 0; slot < slots; ++slot) {
        SpanTask& task = tasks[static_cast<size_t>(slot)];
        task.span.first_position = static_cast<int32_t>(slot * kSpanTokens);
        task.span.tokens = kSpanTokens;
        task.slot = static_cast<int32_t>(slot);
        for (auto& page_row : task.span.rows) page_row = block_.data() + static_cast<uint64_t>(next++ % rows) * row;
      }
      device_.ops().attend(*compute_, q, shape, tasks, states);
      compute_->synchronize();
      return static_cast<double>(slots * kPagesPerSpan) * static_cast<double>(row);
    });
  }

  WeightSpeed matmul_speed(DType type, double seconds) {
    const int64_t rows = place_matrices(type);
    const View x = View::dense(x_.data(), DType::f32, kChunkRows, size_.width);
    // The time that `count` products of the first n rows of each matrix with m rows of x take.
    int64_t next = 0;
    const auto run = [&](int64_t m, int64_t n, int64_t count) {
      const double start = seconds_now();
      for (int64_t i = 0; i < count; ++i, next = (next + 1) % matrices_) {
        std::byte* at = block_.data() + static_cast<uint64_t>(next * rows) * row_bytes(type, size_.width);
        const MatmulPart part{.weight = View::dense(at, type, n, size_.width),
                              .out = View::dense(out_.data(), DType::f32, m, n)};
        device_.ops().matmul(*compute_, x.slice_rows(0, m), {&part, 1});
      }
      compute_->synchronize();
      return seconds_now() - start;
    };
    WeightSpeed speed;
    run(1, rows, 1);
    const double pass_s = seconds / 8;
    const auto count = static_cast<int64_t>(pass_s / std::max(run(1, rows, 1), 1e-6));
    const int64_t matrices = std::clamp<int64_t>(count, 1, matrices_);
    const auto matrix_bytes = static_cast<double>(rows) * static_cast<double>(row_bytes(type, size_.width));
    speed.decode_bytes = best_rate(seconds / 2, [&](int) {
      run(1, rows, matrices);
      return static_cast<double>(matrices) * matrix_bytes;
    });
    const double step_s = run(kChunkRows, kRowStep, 1);
    const auto steps = static_cast<int64_t>(pass_s / std::max(step_s, 1e-6));
    const int64_t n = std::clamp<int64_t>(steps * kRowStep, kRowStep, rows);
    speed.prefill_flops = best_rate(seconds / 2, [&](int) {
      run(kChunkRows, n, 1);
      return 2.0 * static_cast<double>(kChunkRows * size_.width * n);
    });
    return speed;
  }

 private:
  // Small numbers of half precision everywhere in the block.
  void fill_with_halves() {
    std::mt19937_64 random(2);
    std::array<uint16_t, 2048> halves;
    std::generate(halves.begin(), halves.end(), [&] { return f32_to_f16(static_cast<float>(random() % 256) / 256); });
    for (uint64_t at = 0; at < host_.bytes(); at += sizeof halves) {
      std::memcpy(host_.data() + at, halves.data(), std::min<uint64_t>(sizeof halves, host_.bytes() - at));
    }
    for (uint64_t at = 0; at < block_.bytes(); at += host_.bytes()) {
      copies_->copy(block_.data() + at, host_.data(), std::min(host_.bytes(), block_.bytes() - at));
    }
    copies_->synchronize();
  }

  ModelShape shape() const {
    const int width = static_cast<int>(size_.width);
    return {.layers = 1,
            .hidden = width,
            .heads = width / 128,
            .kv_heads = width / 128,
            .head_dim = 128,
            .ffn = width,
            .vocab = width};
  }

  // Fills the device's block with matrices of the type, through the host's; returns the rows of each.
  int64_t place_matrices(DType type) {
    std::mt19937_64 random(1);
    const uint64_t bytes_per_row = row_bytes(type, size_.width);
    const auto most_rows = static_cast<int64_t>(host_.bytes() / bytes_per_row);
    const int64_t rows = std::min(size_.most_rows, most_rows / kRowStep * kRowStep);
    SPILLWAY_CHECK(rows > 0);
    fill_row(type, size_.width, host_.data(), random);
    for (int64_t row = 1; row < rows; ++row) {
      std::memcpy(host_.data() + static_cast<uint64_t>(row) * bytes_per_row, host_.data(), bytes_per_row);
    }
    const uint64_t matrix_bytes = static_cast<uint64_t>(rows) * bytes_per_row;
    matrices_ = static_cast<int64_t>(block_.bytes() / matrix_bytes);
    for (int64_t i = 0; i < matrices_; ++i) {
      copies_->copy(block_.data() + static_cast<uint64_t>(i) * matrix_bytes, host_.data(), matrix_bytes);
    }
    copies_->synchronize();
    for (int64_t row = 0; row < kChunkRows; ++row) {
      fill_row(DType::f32, size_.width, host_.data() + static_cast<uint64_t>(row) * size_.width * 4, random);
    }
    copies_->copy(x_.data(), host_.data(), x_.bytes());
    copies_->synchronize();
    return rows;
  }

  Device& device_;
  const ComputeWishes& wishes_;
  MatrixSize size_;
  Block block_;
  Block host_;
  std::unique_ptr<Stream> copies_;
  std::unique_ptr<Stream> compute_;
  Block x_;
  Block out_;
  Block scratch_;
  int64_t matrices_ = 0;
  volatile uint64_t sink_ = 0;
};

}  // namespace

uint64_t measuring_set(const Device& device, uint64_t most_bytes) {
  const uint64_t wanted =
      device.host_addressable() ? std::clamp(2 * last_cache_bytes(), 64 * kMiB, kMostSet) : kMostSet;
  const uint64_t room = std::max(std::min(most_bytes, device.free_bytes() / 4), kLeastBytes);
  // Half as much again is the other side of copies.
  const auto set = [&](uint64_t aside) {
    return align_down(std::min(wanted, (room - aside) / 3 * 2), kReadPieceBytes);
  };
  const bool wide = !device.host_addressable() && set(kAsideBytes) > kWideSet;
  return set(wide ? kWideAsideBytes : kAsideBytes);
}

ComputeProfile measure_compute(Device& device, const ComputeWishes& wishes, ComputeProfile known, const SayLine& say) {
  std::vector<DType> types = wishes.types;
  std::erase_if(types, [&](DType type) { return known.weights.contains(type); });
  const bool memory = known.memory_read == 0;
  const bool attention = wishes.heads.heads > 0 && !known.attention.contains(wishes.heads);
  if (types.empty() && !memory && !attention) return known;

  const double begin = seconds_now();
  const uint64_t set = measuring_set(device, wishes.most_bytes);
  ComputeMeter meter(device, wishes, set);
  known.working_set = known.working_set == 0 ? set : std::min(known.working_set, set);
  if (memory) {
    known.memory_read = meter.read_speed(wishes.seconds / 12);
    known.host_to_device = meter.copy_speed(true, wishes.seconds / 16);
    known.device_to_host = meter.copy_speed(false, wishes.seconds / 16);
    if (!device.host_addressable()) known.device_memory = meter.device_speed(wishes.seconds / 16);
    say(fmt::format("memory: read at {}; copies at {} to the device, {} back{}", format_speed(known.memory_read),
                    format_speed(known.host_to_device), format_speed(known.device_to_host),
                    known.device_memory > 0 ? "; the device's own at " + format_speed(known.device_memory) : ""));
  }
  if (known.call_s == 0) known.call_s = meter.call_seconds(wishes.seconds / 32);
  if (attention) {
    const double speed = meter.attention_speed(wishes.heads, wishes.seconds / 12);
    known.attention[wishes.heads] = speed;
    say(fmt::format("attention of {} heads on {} of {}: {} of KV in decode", wishes.heads.heads, wishes.heads.kv_heads,
                    wishes.heads.head_dim, format_speed(speed)));
  }
  for (size_t i = 0; i < types.size(); ++i) {
    const double left = begin + wishes.seconds - seconds_now();
    // What is left, in equal parts; some of each part goes into placing the matrices.
    const double part = std::clamp(left / static_cast<double>(types.size() - i) * 0.7, 0.02, 0.15);
    const WeightSpeed speed = meter.matmul_speed(types[i], part);
    known.weights[types[i]] = speed;
    say(fmt::format("{}: {} of weights in decode, {:.0f} GFLOP/s in prefill", info(types[i]).name,
                    format_speed(speed.decode_bytes), speed.prefill_flops * 1e-9));
  }
  return known;
}

}  // namespace spillway
