// llama_batch: a batch file (spillway batch's) through llama.cpp, many requests at once, greedily: what batch.py times.
// Continuous batching over llama.cpp's public API only: each pass takes the next token of every request at work, and
// fills up with prompts.
#include <llama.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "perf/tool.h"

namespace spillway {
namespace {

void quiet(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

struct Wishes {
  std::string model, input;
  int threads = 2, sequences = 32, pass_tokens = 512;
  bool unified = false;
};

struct Request {
  std::vector<llama_token> prompt;
  int answer = 0;  // tokens wanted
};

// A sequence at work.
struct Work {
  const Request* request = nullptr;
  size_t read = 0;  // tokens of the prompt that are in a pass already
  int answered = 0;
  llama_token next = 0;
  int row = -1;  // of its logits in this pass
};

std::vector<Request> read_requests(const std::string& path, const llama_vocab* vocab) {
  std::ifstream in(path);
  if (!in) throw std::runtime_error(path + ": cannot be read");
  std::vector<Request> requests;
  for (std::string line; std::getline(in, line);) {
    const nlohmann::json body = nlohmann::json::parse(line).at("body");
    const std::string text = body.at("prompt");
    Request request{std::vector<llama_token>(text.size() + 8), body.at("max_tokens")};
    const int count = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), request.prompt.data(),
                                     static_cast<int32_t>(request.prompt.size()), true, false);
    if (count <= 0) throw std::runtime_error("llama_tokenize gives no tokens");
    request.prompt.resize(static_cast<size_t>(count));
    requests.push_back(std::move(request));
  }
  return requests;
}

class Passes {
 public:
  Passes(llama_context* context, const llama_vocab* vocab, const Wishes& wishes, const std::vector<Request>& requests)
      : context_(context),
        vocab_(llama_vocab_n_tokens(vocab)),
        most_(wishes.pass_tokens),
        requests_(requests),
        work_(static_cast<size_t>(wishes.sequences)),
        batch_(llama_batch_init(wishes.pass_tokens, 0, 1)) {}
  ~Passes() { llama_batch_free(batch_); }
  Passes(const Passes&) = delete;

  // False when all is answered.
  bool pass() {
    batch_.n_tokens = 0;
    for (Work& work : work_) {
      if (work.request == nullptr && taken_ < requests_.size()) work = {.request = &requests_[taken_++]};
    }
    for (size_t s = 0; s < work_.size(); ++s) {
      Work& work = work_[s];
      work.row = -1;
      if (work.answered > 0)
        add(s, work.next, work.request->prompt.size() + static_cast<size_t>(work.answered) - 1, true);
    }
    for (size_t s = 0; s < work_.size(); ++s) {
      Work& work = work_[s];
      if (work.request == nullptr || work.answered > 0) continue;
      const std::vector<llama_token>& prompt = work.request->prompt;
      while (work.read < prompt.size() && batch_.n_tokens < most_) {
        add(s, prompt[work.read], work.read, work.read + 1 == prompt.size());
        ++work.read;
      }
    }
    if (batch_.n_tokens == 0) return false;
    if (llama_decode(context_, batch_) != 0) throw std::runtime_error("llama_decode fails");
    for (size_t s = 0; s < work_.size(); ++s) take(s);
    return true;
  }
  int64_t tokens_out() const { return tokens_out_; }

 private:
  void add(size_t sequence, llama_token token, size_t position, bool logits) {
    const auto n = static_cast<size_t>(batch_.n_tokens);
    batch_.token[n] = token;
    batch_.pos[n] = static_cast<llama_pos>(position);
    batch_.n_seq_id[n] = 1;
    batch_.seq_id[n][0] = static_cast<llama_seq_id>(sequence);
    batch_.logits[n] = logits ? 1 : 0;
    if (logits) work_[sequence].row = batch_.n_tokens;
    ++batch_.n_tokens;
  }

  void take(size_t sequence) {
    Work& work = work_[sequence];
    if (work.row < 0) return;
    const float* logits = llama_get_logits_ith(context_, work.row);
    work.next = static_cast<llama_token>(std::max_element(logits, logits + vocab_) - logits);
    ++tokens_out_;
    if (++work.answered < work.request->answer) return;
    llama_memory_seq_rm(llama_get_memory(context_), static_cast<llama_seq_id>(sequence), -1, -1);
    work = {};
  }

  llama_context* context_;
  int vocab_, most_;
  const std::vector<Request>& requests_;
  std::vector<Work> work_;
  llama_batch batch_;
  size_t taken_ = 0;
  int64_t tokens_out_ = 0;
};

void answer_all(const Wishes& wishes) {
  llama_log_set(quiet, nullptr);
  llama_backend_init();
  llama_model_params model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  std::unique_ptr<llama_model, decltype(&llama_model_free)> model(
      llama_model_load_from_file(wishes.model.c_str(), model_params), llama_model_free);
  if (!model) throw std::runtime_error(wishes.model + ": llama.cpp does not load it");
  const llama_vocab* vocab = llama_model_get_vocab(model.get());
  const std::vector<Request> requests = read_requests(wishes.input, vocab);
  size_t longest = 0, tokens_in = 0;
  for (const Request& request : requests) {
    longest = std::max(longest, request.prompt.size() + static_cast<size_t>(request.answer));
    tokens_in += request.prompt.size();
  }
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(longest * static_cast<size_t>(wishes.sequences));
  params.n_seq_max = static_cast<uint32_t>(wishes.sequences);
  params.n_batch = params.n_ubatch = static_cast<uint32_t>(wishes.pass_tokens);
  params.n_threads = params.n_threads_batch = wishes.threads;
  params.kv_unified = wishes.unified;
  std::unique_ptr<llama_context, decltype(&llama_free)> context(llama_init_from_model(model.get(), params), llama_free);
  if (!context) throw std::runtime_error("llama.cpp gives no context");
  const auto begin = std::chrono::steady_clock::now();
  Passes passes(context.get(), vocab, wishes, requests);
  while (passes.pass()) {
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const nlohmann::json report = {{"seconds", seconds}, {"tokens_in", tokens_in}, {"tokens_out", passes.tokens_out()}};
  std::printf("%s\n", report.dump().c_str());
}

int run(int argc, char** argv) {
  Wishes wishes;
  CLI::App app("A batch file through llama.cpp, many requests at once.", "llama_batch");
  app.add_option("-m,--model", wishes.model)->required();
  app.add_option("-i,--input", wishes.input, "lines with body.prompt, a text, and body.max_tokens")->required();
  app.add_option("-t,--threads", wishes.threads)->capture_default_str();
  app.add_option("--sequences", wishes.sequences, "requests at once")->capture_default_str();
  app.add_option("--pass-tokens", wishes.pass_tokens, "tokens of a pass at most")->capture_default_str();
  app.add_flag("--unified", wishes.unified, "one KV buffer for all sequences");
  CLI11_PARSE(app, argc, argv);
  if (wishes.pass_tokens < wishes.sequences) throw std::runtime_error("--pass-tokens: fewer than --sequences");
  answer_all(wishes);
  return 0;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) { return spillway::run_tool("llama_batch", spillway::run, argc, argv); }
