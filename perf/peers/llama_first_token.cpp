// llama_first_token: llama.cpp from the start of a process to the likeliest token after a prompt, which it prints: what
// startup.py times. Uses llama.cpp's public API only, as llama_logits does.
#include <llama.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "perf/tool.h"

namespace spillway {
namespace {

void quiet(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

std::vector<llama_token> token_ids(const llama_vocab* vocab, const std::string& text) {
  std::vector<llama_token> ids(text.size() + 8);
  const int count = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), ids.data(),
                                   static_cast<int32_t>(ids.size()), true, false);
  if (count <= 0) throw std::runtime_error("llama_tokenize gives no tokens");
  ids.resize(static_cast<size_t>(count));
  return ids;
}

void first_token(const std::string& path, const std::string& prompt, int threads) {
  llama_log_set(quiet, nullptr);
  llama_backend_init();
  llama_model_params model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  std::unique_ptr<llama_model, decltype(&llama_model_free)> model(
      llama_model_load_from_file(path.c_str(), model_params), llama_model_free);
  if (!model) throw std::runtime_error(path + ": llama.cpp does not load it");
  const llama_vocab* vocab = llama_model_get_vocab(model.get());
  std::vector<llama_token> ids = token_ids(vocab, prompt);
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(ids.size() + 1);
  params.n_threads = params.n_threads_batch = threads;
  std::unique_ptr<llama_context, decltype(&llama_free)> context(llama_init_from_model(model.get(), params), llama_free);
  if (!context) throw std::runtime_error("llama.cpp gives no context");
  if (llama_decode(context.get(), llama_batch_get_one(ids.data(), static_cast<int32_t>(ids.size()))) != 0) {
    throw std::runtime_error("llama_decode fails");
  }
  const float* logits = llama_get_logits_ith(context.get(), -1);
  const auto id = static_cast<llama_token>(std::max_element(logits, logits + llama_vocab_n_tokens(vocab)) - logits);
  std::vector<char> piece(256);
  const int length = llama_token_to_piece(vocab, id, piece.data(), static_cast<int32_t>(piece.size()), 0, true);
  std::fwrite(piece.data(), 1, static_cast<size_t>(std::max(length, 0)), stdout);
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  CLI::App app("llama.cpp from the start of a process to the first token.", "llama_first_token");
  std::string model, prompt;
  int threads = 2;
  app.add_option("-m,--model", model)->required();
  app.add_option("-p,--prompt", prompt)->required();
  app.add_option("-t,--threads", threads)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  first_token(model, prompt, threads);
  return 0;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) { return spillway::run_tool("llama_first_token", spillway::run, argc, argv); }
