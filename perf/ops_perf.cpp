// Speed of a device's operations beside the machine's own limits, measured in turns in the same run:
//   decode shapes beside a plain read of memory (on a GPU: a copy within its memory, bytes read and written),
//   prefill shapes beside multiply-adds in registers: of floats, or of bytes where weights are quantised (on a GPU:
//   beside nothing; the peak that they belong to is cuBLAS's, which the limits of perf/gpu measure).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/blocks.h"
#include "perf/ops_bench.h"
#include "perf/tool.h"
#include "tests/support/random_blocks.h"

namespace spillway {
namespace {

class Bench : public OpsBench {
 public:
  using OpsBench::OpsBench;

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
    if (wanted("attend ") || wanted("attend_chunk")) attention();
    if (wanted("score_keys") || wanted("score_bounds") || wanted("attend_selected")) selection();
  }

 private:
  // A pattern of valid elements, repeated: subnormal or infinite ones would cost other time.
  void fill_weights(DType type) {
    const int64_t elements = 1 << 20;
    std::vector<std::byte> pattern(row_bytes(type, elements));
    fill_random_row(RandomBits(7), type, elements, 0.02, pattern.data());
    fill_pool(pattern);
  }

  View weight(DType type, int64_t n, int64_t k) {
    const uint64_t bytes = n * row_bytes(type, k);
    if (next_weight_ + bytes > pool_bytes_) next_weight_ = 0;
    const View view = View::dense(pool_ + next_weight_, type, n, k);
    next_weight_ += (bytes + 63) / 64 * 64;
    return view;
  }

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

  void fill_halves() {
    const auto values = floats(1 << 20);
    std::vector<uint16_t> halves(values.size());
    std::transform(values.begin(), values.end(), halves.begin(), f32_to_f16);
    fill_pool(std::as_bytes(std::span(halves)));
  }

  void attention() {
    fill_halves();
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

  // Chosen from so many tokens, a tenth of them.
  static constexpr int kSelectionTokens = 32768;

  void selection() {
    fill_halves();
    struct Case {
      int heads, kv_heads, head_dim, rank, bits;
    };
    for (const Case& c : {Case{14, 2, 64, 32, 4}, Case{14, 2, 64, 64, 16}, Case{32, 8, 128, 64, 4}}) {
      const AttendShape shape{
          {DType::f16, c.kv_heads, c.head_dim}, c.heads, 1.0f / std::sqrt(static_cast<float>(c.head_dim))};
      score_keys(shape, {.kv_heads = c.kv_heads, .rank = c.rank, .bits = c.bits});
      if (c.bits == 4) score_bounds(shape, 16);
    }
    for (const KvCodec codec : {KvCodec::f16, KvCodec::kivi4}) {
      for (const auto& [heads, kv_heads, head_dim] : {std::tuple{14, 2, 64}, std::tuple{32, 8, 128}}) {
        attend_selected(
            {{DType::f16, kv_heads, head_dim, codec}, heads, 1.0f / std::sqrt(static_cast<float>(head_dim))});
      }
    }
  }

  int64_t calls_of(uint64_t bytes) const {
    return std::max<int64_t>(1, static_cast<int64_t>((gpu_ ? kGpuTimedBytes : kTimedBytes) / bytes));
  }

  void score_keys(const AttendShape& shape, const PartialKeyFormat& format) {
    constexpr int kGranule = 4;
    const int d = shape.format.head_dim, directions = format.kv_heads * format.rank;
    const DeviceFloats q = on_device(shape.heads * d), keys = on_device(directions * d),
                       mean = on_device(format.kv_heads * d);
    const DeviceFloats scores = on_device(shape.heads * score_columns(format, kSelectionTokens));
    const DeviceFloats weights = on_device(format.kv_heads * (kSelectionTokens / kGranule));
    const PartialKeyBasis basis{keys.view(directions), keys.view(directions), mean.view(format.kv_heads)};
    const uint64_t bytes = format.row_bytes() * (kSelectionTokens / kPageTokens);
    uint64_t next = 0;
    measure(
        fmt::format("score_keys {} r {} b {}", name_of(shape), format.rank, format.bits), "GB/s",
        static_cast<double>(bytes * calls_of(bytes)),
        [&] {
          for (int64_t i = 0; i < calls_of(bytes); i++) {
            std::vector<const std::byte*> rows;
            if (next + bytes > pool_bytes_) next = 0;
            for (uint64_t at = 0; at < bytes; at += format.row_bytes()) rows.push_back(pool_ + next + at);
            next += bytes;
            device_->ops().score_keys(*stream_, q.view(1), shape, format, basis, rows, kSelectionTokens, kGranule,
                                      scores.view(shape.heads), weights.view(format.kv_heads));
          }
          stream_->synchronize();
        },
        [&] { return read_limit(); });
  }

  void score_bounds(const AttendShape& shape, int granule) {
    const KeyBoundsFormat format{shape.format.kv_heads, shape.format.head_dim, granule};
    const int granules = kSelectionTokens / granule;
    const DeviceFloats q = on_device(shape.heads * format.head_dim), scores = on_device(shape.heads * granules),
                       weights = on_device(format.kv_heads * granules);
    const uint64_t bytes = format.row_bytes() * (kSelectionTokens / kPageTokens);
    uint64_t next = 0;
    measure(
        fmt::format("score_bounds {} by {}", name_of(shape), granule), "GB/s",
        static_cast<double>(bytes * calls_of(bytes)),
        [&] {
          for (int64_t i = 0; i < calls_of(bytes); i++) {
            std::vector<const std::byte*> rows;
            if (next + bytes > pool_bytes_) next = 0;
            for (uint64_t at = 0; at < bytes; at += format.row_bytes()) rows.push_back(pool_ + next + at);
            next += bytes;
            device_->ops().score_bounds(*stream_, q.view(1), shape, rows, kSelectionTokens, granule,
                                        scores.view(shape.heads), weights.view(format.kv_heads));
          }
          stream_->synchronize();
        },
        [&] { return read_limit(); });
  }

  // Granules anywhere in the pool, so that every one of them is a read of its own.
  void attend_selected(const AttendShape& shape) {
    constexpr int kGranule = 4, kChosen = kSelectionTokens / kGranule / 10;
    const KvFormat& format = shape.format;
    const uint64_t halves = kGranule * format.token_bytes();
    const uint64_t stored = format.packs() ? format.packed_page().granule_bytes : 2 * halves;
    const uint64_t bytes = stored * format.kv_heads * kChosen;
    const int64_t calls = calls_of(bytes), of_call = int64_t{format.kv_heads} * kChosen;
    std::mt19937_64 random(5);
    std::vector<GranulePlace> places(static_cast<size_t>(calls * of_call));
    for (GranulePlace& place : places) {
      const std::byte* at = pool_ + random() % (pool_bytes_ - 4096) / 64 * 64;
      place = {at, format.packs() ? at + 2048 : at + halves, kGranule, format.packs()};
    }
    std::vector<float> table(places.size() * sizeof(GranulePlace) / sizeof(float));
    std::memcpy(table.data(), places.data(), places.size() * sizeof(GranulePlace));
    const DeviceFloats there(*device_, *stream_, table);
    SelectedKv kv{reinterpret_cast<const GranulePlace*>(there.view(1).data), kChosen, kGranule};
    const DeviceFloats q = on_device(shape.heads * format.head_dim);
    const DeviceFloats states = on_device(int64_t{kv.states()} * shape.heads * attn_state_floats(format.head_dim));
    measure(
        fmt::format("attend_selected {} {}", name_of(shape), info(format.codec).name), "GB/s",
        static_cast<double>(bytes * calls),
        [&] {
          for (int64_t i = 0; i < calls; i++) {
            SelectedKv some = kv;
            some.places += i * of_call;
            device_->ops().attend_selected(*stream_, q.view(1), shape, some, states.view(kv.states()));
          }
          stream_->synchronize();
        },
        [&] { return read_limit(); });
  }

  uint64_t next_weight_ = 0;
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
