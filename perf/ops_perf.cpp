// Speed of a device's operations beside the machine's own limits, measured in turns in the same run:
//   decode shapes beside a plain read of memory (on a GPU: a copy within its memory, bytes read and written),
//   prefill shapes beside multiply-adds in registers: of floats, or of bytes where weights are quantised (on a GPU:
//   beside nothing; the peak that they belong to is cuBLAS's, which the limits of perf/gpu measure).
#include <fmt/format.h>
#include <immintrin.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/blocks.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/team.h"
#include "perf/tool.h"
#include "tests/support/random_blocks.h"

namespace spillway {
namespace {

// Far more than the caches hold, so that every pass reads memory.
constexpr uint64_t kPoolBytes = uint64_t{768} << 20;
constexpr uint64_t kGpuPoolBytes = uint64_t{2} << 30;
// Of one timing: long beside the moment in which the host waits.
constexpr uint64_t kTimedBytes = 64 << 20;
constexpr uint64_t kGpuTimedBytes = uint64_t{1} << 30;
constexpr uint64_t kScratchBytes = 256 << 20;

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

__attribute__((target("avx2"))) uint64_t read_bytes(const std::byte* data, uint64_t bytes) {
  __m256i sums[4] = {};
  for (uint64_t i = 0; i + 128 <= bytes; i += 128) {
    for (int j = 0; j < 4; j++) {
      sums[j] = _mm256_xor_si256(sums[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + i + 32 * j)));
    }
  }
  const __m256i all = _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3]));
  return static_cast<uint64_t>(_mm256_extract_epi64(all, 0));
}

// Twelve chains of multiply-adds in registers, which the compiler may not see through: operations done.
__attribute__((target("avx2,fma"))) double fma_256(int64_t rounds) {
  __m256 a[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; i++) a[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 x = _mm256_set1_ps(0.5f);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) {
      a[i] = _mm256_fmadd_ps(a[i], x, x);
      asm volatile("" : "+x"(a[i]));
    }
  }
  return static_cast<double>(rounds) * 12 * 8 * 2;
}

__attribute__((target("avx512f"))) double fma_512(int64_t rounds) {
  __m512 a[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; i++) a[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 x = _mm512_set1_ps(0.5f);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) {
      a[i] = _mm512_fmadd_ps(a[i], x, x);
      asm volatile("" : "+v"(a[i]));
    }
  }
  return static_cast<double>(rounds) * 12 * 16 * 2;
}

// AVX2 multiplies bytes to sums in 16 bits; adding those up comes on top.
__attribute__((target("avx2"))) double bytes_256(int64_t rounds) {
  __m256i a[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; i++) a[i] = _mm256_set1_epi8(static_cast<char>(i));
  const __m256i x = _mm256_set1_epi8(1);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) {
      a[i] = _mm256_maddubs_epi16(a[i], x);
      asm volatile("" : "+x"(a[i]));
    }
  }
  return static_cast<double>(rounds) * 12 * 32 * 2;
}

__attribute__((target("avx512f,avx512vnni"))) double bytes_512(int64_t rounds) {
  __m512i a[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; i++) a[i] = _mm512_set1_epi32(i);
  const __m512i x = _mm512_set1_epi32(0x01010101);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) {
      a[i] = _mm512_dpbusd_epi32(a[i], x, x);
      asm volatile("" : "+v"(a[i]));
    }
  }
  return static_cast<double>(rounds) * 12 * 64 * 2;
}

struct Row {
  std::string name;
  std::string unit;
  double value;
  double limit;        // the same unit, measured in turns with it; 0: none
  uint64_t bytes = 0;  // of a matrix that decode reads
};

// Floats on the device.
class DeviceFloats {
 public:
  DeviceFloats(Device& device, Stream& stream, const std::vector<float>& values)
      : device_(device), bytes_(values.size() * sizeof(float)), data_(device.reserve(bytes_)) {
    std::byte* host = device.reserve_host(bytes_);
    std::memcpy(host, values.data(), bytes_);
    stream.copy(data_, host, bytes_);
    stream.synchronize();
    device.release_host(host, bytes_);
  }
  ~DeviceFloats() { device_.release(data_, bytes_); }
  DeviceFloats(const DeviceFloats&) = delete;
  View view(int64_t rows) const {
    return View::dense(data_, DType::f32, rows, static_cast<int64_t>(bytes_ / sizeof(float)) / rows);
  }

 private:
  Device& device_;
  uint64_t bytes_;
  std::byte* data_;
};

class Bench {
 public:
  Bench(std::unique_ptr<Device> device, CpuIsa isa, int threads, double seconds)
      : isa_(isa),
        seconds_(seconds),
        team_(threads),
        device_(std::move(device)),
        gpu_(!device_->host_addressable()),
        pool_bytes_(gpu_ ? kGpuPoolBytes : kPoolBytes),
        stream_(device_->make_compute_stream("perf")),
        pool_(device_->reserve(pool_bytes_)),
        scratch_(device_->reserve(kScratchBytes)) {
    device_->ops().set_scratch({}, scratch_, kScratchBytes);
  }
  ~Bench() {
    stream_->synchronize();
    device_->ops().set_scratch({}, nullptr, 0);
    device_->release(scratch_, kScratchBytes);
    device_->release(pool_, pool_bytes_);
  }

  void run(const std::string& filter, bool brief) {
    const auto wanted = [&](const std::string& name) { return name.find(filter) != std::string::npos; };
    std::vector<std::pair<int64_t, int64_t>> shapes = {{4096, 4096}, {11008, 4096}, {4096, 11008},
                                                       {576, 576},   {1536, 576},   {1536, 768}};
    if (brief) shapes.resize(1);
    if (gpu_) shapes.insert(shapes.begin(), {{128256, 4096}, {32000, 4096}});
    for (DType type : kWeightTypes) {
      if (!wanted(fmt::format("matmul {} ", info(type).name))) continue;
      fill_weights(type);
      for (const auto& [n, k] : shapes) {
        if (k % info(type).block_elements != 0) continue;
        matmul_decode(type, 1, n, k);
        if (k == 4096 && n == 4096) matmul_decode(type, 4, n, k);
      }
      for (const auto& [n, k] : shapes) {
        if (k % info(type).block_elements == 0) matmul_prefill(type, n, k);
      }
    }
    for (DType type : {DType::q8_0, DType::q4_0, DType::q4_k}) {
      if (!wanted(fmt::format("experts {} ", info(type).name))) continue;
      fill_weights(type);
      for (int64_t m : {1, 512}) experts(type, m);
    }
    if (wanted("attend")) attention();
  }

  const std::vector<Row>& rows() const { return rows_; }

 private:
  // Median of `work` (which does `amount` of the unit) and of the limit, run in turns.
  void measure(const std::string& name, const std::string& unit, double amount, const std::function<void()>& work,
               const std::function<double()>& limit) {
    std::vector<double> own;
    std::vector<double> limits;
    work();
    double spent = 0;
    while (spent < seconds_ || own.size() < 5) {
      const double seconds = seconds_of(work);
      own.push_back(amount / seconds / 1e9);
      spent += seconds;
      if (own.size() % 4 == 1 && limits.size() < 24) {
        // On a thread of its own, with a core of its own, as the device's stream has: this one is wherever it is.
        std::thread([&] {
          team_.bind_caller();
          limits.push_back(limit() / 1e9);
        }).join();
      }
    }
    rows_.push_back({name, unit, median(own), median(limits)});
    const Row& r = rows_.back();
    fmt::print("{:<34} {:8.2f} {:<8}", r.name, r.value, r.unit);
    if (r.limit > 0) fmt::print(" limit {:8.2f}  {:5.1f} %", r.limit, 100 * r.value / r.limit);
    fmt::print("\n");
    std::fflush(stdout);
  }

  double read_limit() {
    if (gpu_) {
      const uint64_t half = pool_bytes_ / 2;
      return 2.0 * static_cast<double>(half) / seconds_of([&] {
               stream_->copy(pool_ + half, pool_, half);
               stream_->synchronize();
             });
    }
    constexpr uint64_t kChunk = 1 << 20;
    constexpr int64_t kChunks = 96;
    const uint64_t start = (next_read_ += kChunk * kChunks) % (kPoolBytes - kChunk * kChunks);
    std::vector<uint64_t> sinks(kChunks);
    const double seconds = seconds_of([&] {
      team_.run(kChunks, [&](int64_t i, int) { sinks[i] = read_bytes(pool_ + start + i * kChunk, kChunk); });
    });
    return kChunks * kChunk / seconds;
  }

  double multiply_limit(bool quantised) {
    if (gpu_) return 0;
    const bool wide = isa_ == CpuIsa::avx512 || (isa_ == CpuIsa::best && widest_isa() == CpuIsa::avx512);
    const auto chains = quantised ? (wide ? bytes_512 : bytes_256) : (wide ? fma_512 : fma_256);
    std::vector<double> done(16 * team_.workers());
    const double seconds = seconds_of(
        [&] { team_.run(static_cast<int64_t>(done.size()), [&](int64_t i, int) { done[i] = chains(20000); }); });
    return std::accumulate(done.begin(), done.end(), 0.0) / seconds;
  }

  // A pattern of valid elements, repeated: subnormal or infinite ones would cost other time.
  void fill_weights(DType type) {
    const int64_t elements = 1 << 20;
    std::vector<std::byte> pattern(row_bytes(type, elements));
    fill_random_row(RandomBits(7), type, elements, 0.02, pattern.data());
    fill_pool(pattern);
  }

  // The pattern over and over.
  void fill_pool(std::span<const std::byte> pattern) {
    std::byte* host = device_->reserve_host(pattern.size());
    std::memcpy(host, pattern.data(), pattern.size());
    for (uint64_t at = 0; at < pool_bytes_; at += pattern.size())
      stream_->copy(pool_ + at, host, std::min<uint64_t>(pattern.size(), pool_bytes_ - at));
    stream_->synchronize();
    device_->release_host(host, pattern.size());
  }

  View weight(DType type, int64_t n, int64_t k) {
    const uint64_t bytes = n * row_bytes(type, k);
    if (next_weight_ + bytes > pool_bytes_) next_weight_ = 0;
    const View view = View::dense(pool_ + next_weight_, type, n, k);
    next_weight_ += (bytes + 63) / 64 * 64;
    return view;
  }

  std::vector<float> floats(int64_t count) {
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& v : values) v = normal(random);
    return values;
  }

  DeviceFloats on_device(int64_t count) { return {*device_, *stream_, floats(count)}; }

  void matmul(DType type, const View& x, const View& out) {
    const MatmulPart part{weight(type, out.cols, x.cols), out, false};
    device_->ops().matmul(*stream_, x, {&part, 1});
  }

  void matmul_decode(DType type, int64_t m, int64_t n, int64_t k) {
    const DeviceFloats x = on_device(m * k), out = on_device(m * n);
    const uint64_t bytes = n * row_bytes(type, k);
    const int64_t calls = std::max<int64_t>(1, static_cast<int64_t>((gpu_ ? kGpuTimedBytes : kTimedBytes) / bytes));
    measure(
        fmt::format("matmul {} m {} [{} x {}]", info(type).name, m, n, k), "GB/s", static_cast<double>(bytes * calls),
        [&] {
          for (int64_t i = 0; i < calls; i++) matmul(type, x.view(m), out.view(m));
          stream_->synchronize();
        },
        [&] { return read_limit(); });
    rows_.back().bytes = bytes;
  }

  void matmul_prefill(DType type, int64_t n, int64_t k) {
    const int64_t m = 512;
    const DeviceFloats x = on_device(m * k), out = on_device(m * n);
    measure(
        fmt::format("matmul {} m {} [{} x {}]", info(type).name, m, n, k), "GFLOP/s", 2.0 * m * n * k,
        [&] {
          matmul(type, x.view(m), out.view(m));
          stream_->synchronize();
        },
        [&] { return multiply_limit(is_quantised(type)); });
  }

  // Those of a layer of Qwen 3 30B-A3B: 8 of 128 for each row. One row reads 8 of them; many rows, all.
  void experts(DType type, int64_t m) {
    constexpr int64_t kHidden = 2048, kInner = 768;
    constexpr int kExperts = 128, kUsed = 8;
    ExpertRoutes routes{nullptr, m, kExperts, kUsed};
    const DeviceFloats table(*device_, *stream_, std::vector<float>(routes.bytes() / sizeof(float)));
    routes.data = table.view(1).data;
    const int64_t places = routes.places();
    const DeviceFloats logits = on_device(m * kExperts), x = on_device(m * kHidden), rows = on_device(places * kHidden);
    const DeviceFloats gate = on_device(places * kInner), up = on_device(places * kInner);
    const auto shape = [&](int64_t n, int64_t k) { return View::dense(nullptr, type, n, k); };
    const auto layer = [&] {
      std::vector<ExpertData> data(kExperts);
      for (ExpertData& one : data) {
        one = {{weight(type, kInner, kHidden).data, weight(type, kInner, kHidden).data,
                weight(type, kHidden, kInner).data}};
      }
      Ops& ops = device_->ops();
      ops.route(*stream_, logits.view(m), x.view(m), true, routes, rows.view(places));
      ops.experts(*stream_, Activation::silu, routes,
                  {shape(kInner, kHidden), shape(kInner, kHidden), shape(kHidden, kInner), data}, rows.view(places),
                  gate.view(places), up.view(places));
      ops.combine(*stream_, routes, rows.view(places), x.view(m));
      stream_->synchronize();
    };
    const std::string name = fmt::format("experts {} m {} [8 of 128]", info(type).name, m);
    const double elements = 3.0 * kHidden * kInner;
    if (m > 1)
      return measure(name, "GFLOP/s", 2 * elements * places, layer, [&] { return multiply_limit(is_quantised(type)); });
    const uint64_t bytes = kUsed * 3 * kInner * row_bytes(type, kHidden);
    measure(name, "GB/s", static_cast<double>(bytes), layer, [&] { return read_limit(); });
  }

  void attention() {
    const auto keys = floats(1 << 20);
    std::vector<uint16_t> halves(keys.size());
    std::transform(keys.begin(), keys.end(), halves.begin(), f32_to_f16);
    fill_pool(std::as_bytes(std::span(halves)));
    struct Shape {
      int heads, kv_heads, head_dim;
    };
    for (const auto& [heads, kv_heads, head_dim] :
         {Shape{9, 3, 64}, Shape{32, 32, 128}, Shape{32, 8, 128}, Shape{14, 2, 64}}) {
      const AttendShape shape{{DType::f16, kv_heads, head_dim}, heads, 1.0f / std::sqrt(static_cast<float>(head_dim))};
      attend(shape);
      for (int spans : {1, 8}) attend_chunk(shape, spans);
    }
  }

  std::vector<KvSpan> spans(const KvFormat& format, int count, uint64_t* next) const {
    std::vector<KvSpan> result(count);
    for (int i = 0; i < count; i++) {
      result[i].first_position = i * kSpanTokens;
      result[i].tokens = kSpanTokens;
      for (auto& row : result[i].rows) {
        if (*next + format.row_of_pages_bytes() > pool_bytes_) *next = 0;
        row = pool_ + *next;
        *next += format.row_of_pages_bytes();
      }
    }
    return result;
  }

  static std::string name_of(const AttendShape& s) {
    return fmt::format("{}/{} x {}", s.heads, s.format.kv_heads, s.format.head_dim);
  }

  void attend(const AttendShape& shape) {
    const uint64_t span_bytes = shape.format.row_of_pages_bytes() * kPagesPerSpan;
    const int count = static_cast<int>(std::clamp<uint64_t>((64 << 20) / span_bytes, 1, 256));
    const DeviceFloats q = on_device(shape.heads * shape.format.head_dim);
    const DeviceFloats states = on_device(int64_t{count} * shape.heads * attn_state_floats(shape.format.head_dim));
    uint64_t next = 0;
    measure(
        "attend " + name_of(shape), "GB/s", static_cast<double>(span_bytes * count),
        [&] {
          std::vector<SpanTask> tasks;
          for (const KvSpan& span : spans(shape.format, count, &next))
            tasks.push_back({span, 0, static_cast<int>(tasks.size())});
          device_->ops().attend(*stream_, q.view(1), shape, tasks, states.view(count));
          stream_->synchronize();
        },
        [&] { return read_limit(); });
  }

  void attend_chunk(const AttendShape& shape, int count) {
    const int64_t m = 512;
    const int64_t width = shape.heads * shape.format.head_dim;
    const DeviceFloats q = on_device(m * width);
    const DeviceFloats states = on_device(m * shape.heads * attn_state_floats(shape.format.head_dim));
    uint64_t next = 0;
    const auto kv = spans(shape.format, count, &next);
    const double seen = static_cast<double>(m) * kSpanTokens * (count - 1) + static_cast<double>(m) * (m + 1) / 2;
    measure(
        fmt::format("attend_chunk {} at {}", name_of(shape), count * kSpanTokens), "GFLOP/s",
        4.0 * seen * static_cast<double>(width),
        [&] {
          device_->ops().attend_chunk(*stream_, q.view(m), (count - 1) * kSpanTokens, shape, kv, states.view(m), true);
          stream_->synchronize();
        },
        [&] { return multiply_limit(false); });
  }

  CpuIsa isa_;
  double seconds_;
  Team team_;
  std::unique_ptr<Device> device_;
  bool gpu_;
  uint64_t pool_bytes_;
  std::unique_ptr<Stream> stream_;
  std::byte* pool_;
  std::byte* scratch_;
  uint64_t next_weight_ = 0;
  uint64_t next_read_ = 0;
  std::vector<Row> rows_;
};

int run(int argc, char** argv) {
  CLI::App app("Speed of a device's operations beside memory and arithmetic limits");
  std::string isa = "best";
  std::string filter;
  std::string device = "cpu";
  std::string json_file;
  int threads = 0;
  double seconds = 0.3;
  bool brief = false;
  app.add_option("--device", device, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--isa", isa, "best, scalar, avx2 or avx512")
      ->check(CLI::IsMember({"best", "scalar", "avx2", "avx512"}));
  app.add_option("-t,--threads", threads, "workers; 0: one for each core");
  app.add_option("--filter", filter, "only names that contain this, like 'matmul Q4_0' or 'attend'");
  app.add_flag("--brief", brief, "matrices of 4096 x 4096 alone");
  app.add_option("--seconds", seconds, "least time for each row");
  app.add_option("--json", json_file, "also writes the rows here");
  CLI11_PARSE(app, argc, argv);
  const CpuIsa chosen = isa == "scalar"   ? CpuIsa::scalar
                        : isa == "avx2"   ? CpuIsa::avx2
                        : isa == "avx512" ? CpuIsa::avx512
                                          : CpuIsa::best;
  auto chosen_device = device_named(device, {.threads = threads, .isa = chosen});
  const std::string name = chosen_device->name();
  Bench bench(std::move(chosen_device), chosen, threads, seconds);
  bench.run(filter, brief);
  if (json_file.empty()) return 0;
  auto rows = nlohmann::json::array();
  for (const auto& r : bench.rows())
    rows.push_back(
        {{"name", r.name}, {"unit", r.unit}, {"value", r.value}, {"limit", r.limit}, {"matrix_bytes", r.bytes}});
  std::ofstream(json_file) << nlohmann::json{{"device", name}, {"isa", isa}, {"threads", threads}, {"rows", rows}}.dump(
                                  1)
                           << "\n";
  return 0;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) { return spillway::run_tool("ops_perf", spillway::run, argc, argv); }
