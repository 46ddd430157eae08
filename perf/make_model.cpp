// make_model: a GGUF file of any llama shape (dense or of experts) or OPT's, and any weight type, with random blocks,
// for measuring speed. llama.cpp loads it too, but for OPT, which it does not know.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <map>
#include <optional>
#include <string>

#include "kernels/check.h"
#include "perf/opt_shapes.h"
#include "perf/tool.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

TinyModelOptions shape_named(const std::string& name) {
  static const std::map<std::string, TinyModelOptions> shapes{
      {"1b",  // Llama 3.2 1B
       {.layers = 16,
        .hidden = 2048,
        .heads = 32,
        .kv_heads = 8,
        .head_dim = 64,
        .ffn = 8192,
        .vocab = 128256,
        .context = 131072,
        .tied = true,
        .rope_base = 500000.0f,
        .rope_factors = true}},
      {"7b",  // Llama 2 7B
       {.layers = 32, .hidden = 4096, .heads = 32, .kv_heads = 32, .head_dim = 128, .ffn = 11008, .vocab = 32000}},
      {"8b",  // Llama 3.1 8B
       {.layers = 32,
        .hidden = 4096,
        .heads = 32,
        .kv_heads = 8,
        .head_dim = 128,
        .ffn = 14336,
        .vocab = 128256,
        .context = 131072,
        .rope_base = 500000.0f,
        .rope_factors = true}},
      {"13b",  // Llama 2 13B
       {.layers = 40, .hidden = 5120, .heads = 40, .kv_heads = 40, .head_dim = 128, .ffn = 13824, .vocab = 32000}},
      {"70b",  // Llama 2 70B
       {.layers = 80, .hidden = 8192, .heads = 64, .kv_heads = 8, .head_dim = 128, .ffn = 28672, .vocab = 32000}},
      {"mixtral",  // Mixtral 8x7B
       {.layers = 32,
        .hidden = 4096,
        .heads = 32,
        .kv_heads = 8,
        .head_dim = 128,
        .ffn = 14336,
        .experts = 8,
        .vocab = 32000,
        .context = 32768,
        .rope_base = 1000000.0f}},
      {"qwen3-30b-a3b",  // Qwen 3 30B-A3B
       {.layers = 48,
        .hidden = 2048,
        .heads = 32,
        .kv_heads = 4,
        .head_dim = 128,
        .ffn = 6144,
        .experts = 128,
        .experts_used = 8,
        .expert_ffn = 768,
        .vocab = 151936,
        .context = 40960,
        .family = "qwen3moe",
        .norm_eps = 1e-6f,
        .rope_base = 1000000.0f}},
      {"smollm2",  // SmolLM2 135M
       {.layers = 30,
        .hidden = 576,
        .heads = 9,
        .kv_heads = 3,
        .head_dim = 64,
        .ffn = 1536,
        .vocab = 49152,
        .context = 8192,
        .tied = true,
        .rope_base = 100000.0f}},
      {"tiny", {}},
  };
  static const std::map<std::string, TinyModelOptions> opt = opt_shapes();
  for (const auto* table : {&shapes, &opt}) {
    if (auto found = table->find(name); found != table->end()) return found->second;
  }
  for (const TinyModelOptions& golden : golden_models()) {
    if (golden.name == name) return golden;
  }
  std::string known;
  for (const auto& [key, shape] : shapes) known += key + " ";
  for (const auto& [key, shape] : opt) known += key + " ";
  for (const TinyModelOptions& golden : golden_models()) known += golden.name + " ";
  throw Error(ErrorKind::usage, fmt::format("--shape {}: not one of {}", name, known));
}

DType type_named(const std::string& name) {
  std::string known;
  for (const DType type : kWeightTypes) {
    if (CLI::detail::to_lower(info(type).name) == CLI::detail::to_lower(name)) return type;
    known += (known.empty() ? "" : ", ") + CLI::detail::to_lower(info(type).name);
  }
  throw Error(ErrorKind::usage, fmt::format("type {}: not one of {}", name, known));
}

// What the flags said; empty where they said nothing, so that the shape's value holds.
struct Wishes {
  std::string output, shape = "7b";
  std::optional<std::string> type, more_bits_type, embedding_type, output_type;
  std::optional<int> layers, hidden, heads, kv_heads, head_dim, ffn, vocab, context, parts;
  std::optional<int> experts, experts_used, expert_ffn;
  std::optional<std::string> family;
  bool tied = false, untied = false;
  std::optional<uint64_t> seed;
  std::optional<uint32_t> alignment;
  std::optional<float> rope_base;
};

void add_flags(CLI::App& app, Wishes& w) {
  app.add_option("-o,--output", w.output, "file to write")->required();
  app.add_option("--shape", w.shape,
                 "1b, 7b, 8b, 13b, 70b, mixtral, qwen3-30b-a3b, smollm2, opt-125m, opt-6.7b, opt-30b, opt-175b, tiny, "
                 "golden-*; the flags below change it")
      ->capture_default_str();
  app.add_option("--type", w.type, "of the matrices: f32, f16, bf16, q4_0 (default for real shapes), q4_k, ...");
  app.add_option("--more-bits-type", w.more_bits_type,
                 "of attn_v and ffn_down in half of the layers, as in files called Q4_K_M (there q6_k)");
  app.add_option("--embedding-type", w.embedding_type, "of the embedding, when it differs");
  app.add_option("--output-type", w.output_type, "of the output matrix, when it differs");
  app.add_option("--layers", w.layers);
  app.add_option("--hidden", w.hidden);
  app.add_option("--heads", w.heads);
  app.add_option("--kv-heads", w.kv_heads);
  app.add_option("--head-dim", w.head_dim);
  app.add_option("--ffn", w.ffn);
  app.add_option("--experts", w.experts, "feed-forward parts of a layer; 0: one, dense");
  app.add_option("--experts-used", w.experts_used, "of them for a token");
  app.add_option("--expert-ffn", w.expert_ffn, "width of one, when it is not --ffn");
  app.add_option("--family", w.family, "llama, qwen3moe or opt");
  app.add_option("--vocab", w.vocab);
  app.add_option("--context", w.context);
  auto* tied = app.add_flag("--tied", w.tied, "the output matrix is the embedding");
  app.add_flag("--untied", w.untied)->excludes(tied);
  app.add_option("--rope-base", w.rope_base);
  app.add_option("--seed", w.seed);
  app.add_option("--split", w.parts, "parts to split the file into")->check(CLI::Range(1, 99999));
  app.add_option("--alignment", w.alignment, "of tensor data, bytes, a power of two");
}

TinyModelOptions options_of(const Wishes& w) {
  TinyModelOptions o = shape_named(w.shape);
  if (o.name == "tiny") {
    o.name = "random-" + w.shape;
    if (w.shape != "tiny") o.type = DType::q4_0;
  }
  auto take = [](auto& into, const auto& wish) {
    if (wish) into = *wish;
  };
  if (w.type) o.type = type_named(*w.type);
  if (w.more_bits_type) o.more_bits_type = type_named(*w.more_bits_type);
  if (w.embedding_type) o.embedding_type = type_named(*w.embedding_type);
  if (w.output_type) o.output_type = type_named(*w.output_type);
  take(o.layers, w.layers);
  take(o.hidden, w.hidden);
  take(o.heads, w.heads);
  take(o.kv_heads, w.kv_heads);
  take(o.head_dim, w.head_dim);
  take(o.ffn, w.ffn);
  take(o.experts, w.experts);
  take(o.experts_used, w.experts_used);
  take(o.expert_ffn, w.expert_ffn);
  take(o.family, w.family);
  take(o.vocab, w.vocab);
  take(o.context, w.context);
  if (w.tied || w.untied) o.tied = w.tied;
  take(o.rope_base, w.rope_base);
  take(o.seed, w.seed);
  take(o.parts, w.parts);
  take(o.alignment, w.alignment);
  if (o.alignment < 8 || (o.alignment & (o.alignment - 1)) != 0) {
    throw Error(ErrorKind::usage, fmt::format("--alignment {}: not a power of two of at least 8", o.alignment));
  }
  return o;
}

int run(int argc, char** argv) {
  CLI::App app("Writes a GGUF file of a llama or OPT shape with random weights.", "make_model");
  Wishes wishes;
  add_flags(app, wishes);
  CLI11_PARSE(app, argc, argv);
  const auto start = std::chrono::steady_clock::now();
  const std::string first = write_model(options_of(wishes), wishes.output);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("{} in {:.1f} s\n", first, seconds);
  return 0;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) { return spillway::run_tool("make_model", spillway::run, argc, argv); }
