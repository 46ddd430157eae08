// llama_logits: the float32 logits of llama.cpp for a list of tokens, teacher-forced, as .npy [tokens x vocabulary].
// Uses llama.cpp's public API only; built against a given llama.cpp (cmake -DSPILLWAY_LLAMA_CPP=DIR).
// llama-perplexity's own
// --kl-divergence-base keeps log-probabilities in 16 bits over a range of 16 nats: too coarse to measure rounding with.
#include <llama.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "perf/tool.h"
#include "runtime/npy.h"

namespace spillway {
namespace {

struct Wishes {
  std::string model, tokens, output, kv_type = "f16";
  int threads = 2, ubatch = 512, prefill = -1;
  bool no_repack = false;
};

std::vector<llama_token> read_tokens(std::string text) {
  if (text.starts_with("@")) {
    std::ifstream file(text.substr(1));
    if (!file) throw std::runtime_error(text.substr(1) + ": cannot open");
    text.assign(std::istreambuf_iterator<char>(file), {});
  }
  for (char& c : text) {
    if (c == ',' || c == '[' || c == ']') c = ' ';
  }
  std::vector<llama_token> ids;
  char* end = nullptr;
  for (const char* at = text.c_str();; at = end) {
    const long id = std::strtol(at, &end, 10);
    if (end == at) break;
    ids.push_back(static_cast<llama_token>(id));
  }
  if (std::string_view(end).find_first_not_of(" \t\r\n") != std::string_view::npos || ids.empty()) {
    throw std::runtime_error("--tokens: not a list of ids");
  }
  return ids;
}

void quiet(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

llama_context_params context_params(const Wishes& wishes, size_t tokens) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(tokens);
  params.n_batch = params.n_ubatch = static_cast<uint32_t>(wishes.ubatch);
  params.n_threads = params.n_threads_batch = wishes.threads;
  if (wishes.kv_type == "f32") {  // its flash attention would round an f32 cache to f16 again
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  }
  return params;
}

void compute(const Wishes& wishes) {
  const std::vector<llama_token> tokens = read_tokens(wishes.tokens);
  llama_log_set(quiet, nullptr);
  llama_backend_init();
  llama_model_params model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  model_params.use_extra_bufts = !wishes.no_repack;
  std::unique_ptr<llama_model, decltype(&llama_model_free)> model(
      llama_model_load_from_file(wishes.model.c_str(), model_params), llama_model_free);
  if (!model) throw std::runtime_error(wishes.model + ": llama.cpp does not load it");
  std::unique_ptr<llama_context, decltype(&llama_free)> context(
      llama_init_from_model(model.get(), context_params(wishes, tokens.size())), llama_free);
  if (!context) throw std::runtime_error("llama.cpp gives no context");
  const int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
  const int count = static_cast<int>(tokens.size());
  const int prefill = wishes.prefill < 0 ? count : std::min(wishes.prefill, count);
  NpyWriter out(wishes.output, vocab);
  llama_batch batch = llama_batch_init(wishes.ubatch, 0, 1);
  for (int first = 0; first < count; first += batch.n_tokens) {
    batch.n_tokens = first < prefill ? std::min(wishes.ubatch, prefill - first) : 1;
    for (int i = 0; i < batch.n_tokens; ++i) {
      const llama_token id = tokens[static_cast<size_t>(first + i)];
      if (id < 0 || id >= vocab) throw std::runtime_error("token " + std::to_string(id) + " is not in the vocabulary");
      batch.token[i] = id;
      batch.pos[i] = first + i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    if (llama_decode(context.get(), batch) != 0) throw std::runtime_error("llama_decode fails");
    for (int i = 0; i < batch.n_tokens; ++i) {
      out.append({llama_get_logits_ith(context.get(), i), static_cast<size_t>(vocab)});
    }
  }
  llama_batch_free(batch);
  out.finish();
}

int run(int argc, char** argv) {
  CLI::App app("Logits of llama.cpp for a list of tokens.", "llama_logits");
  Wishes wishes;
  app.add_option("-m,--model", wishes.model)->required();
  app.add_option("--tokens", wishes.tokens, "ids, or @FILE")->required();
  app.add_option("-o,--output", wishes.output, ".npy")->required();
  app.add_option("-t,--threads", wishes.threads)->capture_default_str();
  app.add_option("--ubatch", wishes.ubatch, "tokens computed together")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--prefill", wishes.prefill, "this many tokens together, each later one alone; default all");
  app.add_option("--kv-type", wishes.kv_type, "of the KV cache; f32 also turns flash attention off")
      ->capture_default_str()
      ->check(CLI::IsMember({"f16", "f32"}));
  app.add_flag("--no-repack", wishes.no_repack, "compute on the file's own layout of blocks");
  CLI11_PARSE(app, argc, argv);
  compute(wishes);
  return 0;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) { return spillway::run_tool("llama_logits", spillway::run, argc, argv); }
