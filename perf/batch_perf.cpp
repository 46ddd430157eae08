// Throughput of a batch job by the number of sequences that share a pass: the same requests, of mixed lengths, at each
// of them; a line of JSON for each.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "perf/tool.h"
#include "runtime/batch.h"
#include "runtime/batch_plan.h"
#include "runtime/session.h"

namespace spillway {
namespace {

struct Wishes {
  Options options;
  std::vector<int> batches = {1, 8, 32};
  int requests = 32;
  int prompt = 128, answer = 64;  // tokens at most, and half of that at least
  uint64_t device_mib = 0;
  bool deterministic = false;
};

std::vector<BatchRequest> make_requests(const Wishes& wishes, int vocab) {
  std::mt19937_64 random(1);
  const auto about = [&](int most) { return most - static_cast<int>(random() % static_cast<uint64_t>(most / 2 + 1)); };
  std::vector<BatchRequest> requests;
  for (int i = 0; i < wishes.requests; ++i) {
    BatchRequest request;
    request.key = static_cast<uint64_t>(i);
    for (int n = about(wishes.prompt); n > 0; --n) {
      request.prompt.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)));
    }
    request.options.max_tokens = about(wishes.answer);
    request.options.ignore_end = true;
    request.options.sampling.temp = 0;
    requests.push_back(std::move(request));
  }
  return requests;
}

void measure(const Model& model, const Wishes& wishes, int batch) {
  Options options = batch_options(wishes.options, {.positions = wishes.prompt + wishes.answer}, batch);
  if (wishes.device_mib > 0) options.device_bytes = wishes.device_mib << 20;
  const ChosenDevice chosen = choose_device(options, model.spec.shape);
  const Plan plan = plan_session(model, options, chosen, {});
  Engine engine(model, options, plan, {*chosen.device, chosen.cpu.get()}, {});
  const std::vector<BatchRequest> requests = make_requests(wishes, model.tokenizer->vocab());
  size_t next = 0;
  const BatchReport report =
      run_batch(engine, *model.tokenizer, {.deterministic = wishes.deterministic},
                {.next = [&]() { return next < requests.size() ? std::optional(requests[next++]) : std::nullopt; },
                 .on_answer =
                     [](const BatchAnswer& answer) {
                       if (!answer.error.empty()) throw Error(answer.error_kind, answer.error);
                     },
                 .on_progress = {},
                 .interrupted = {}});
  const nlohmann::json line = {
      {"batch", batch},
      {"seconds", report.seconds},
      {"tokens_in", report.tokens_in},
      {"tokens_out", report.tokens_out},
      {"tokens_out_per_s", static_cast<double>(report.tokens_out) / report.seconds},
      {"tokens_per_s", static_cast<double>(report.tokens_in + report.tokens_out) / report.seconds},
      {"decode_tps", report.decode_tps},
      {"prefill_tps", report.prefill_tps},
      {"mean_batch", report.mean_batch},
      {"disk_read_bytes", report.bytes.of(Link::disk_read)}};
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  Wishes wishes;
  wishes.options.device = DeviceChoice::cpu;
  CLI::App app("Throughput of batch jobs");
  app.add_option("-m,--model", wishes.options.model_path)->required();
  app.add_option("--batch", wishes.batches, "sequences that share a pass")->delimiter(',');
  app.add_option("--requests", wishes.requests);
  app.add_option("--prompt", wishes.prompt, "tokens of the longest prompt; the shortest has half");
  app.add_option("--answer", wishes.answer, "tokens of the longest answer; the shortest has half");
  app.add_option("--threads", wishes.options.threads);
  app.add_option("--chunk", wishes.options.chunk);
  app.add_option("--device-mib", wishes.device_mib, "MiB: budget of the device; 0: what is free");
  app.add_flag("--deterministic", wishes.deterministic);
  CLI11_PARSE(app, argc, argv);
  const Model model = Model::open(wishes.options.model_path);
  for (const int batch : wishes.batches) measure(model, wishes, batch);
  return 0;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) { return spillway::run_tool("batch_perf", spillway::run, argc, argv); }
