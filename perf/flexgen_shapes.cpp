// FlexGen's published shapes by simulation: OPT-6.7B, 30B and 175B on the machine of its results, which is given by
// numbers. No weight of them exists: a file of holes has their facts. Nothing is measured, and what is printed says so.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "perf/opt_shapes.h"
#include "perf/simulated/block.h"
#include "perf/tool.h"

namespace spillway {
namespace {

// FlexGen's README at 004ffef (benchmark/batch_size_table.md: a T4, 208 GB, 1.5 TB; prompts of 512 tokens, answers of
// 32): generated tokens a second of prompts and answers, and how many sequences share the weights.
struct Published {
  const char* shape;
  bool compressed;
  double tokens_per_second;
  int sequences;
};
constexpr int kPublishedPrompt = 512, kPublishedAnswer = 32;
constexpr Published kPublished[] = {{"opt-6.7b", false, 25.26, 2},  {"opt-6.7b", true, 29.12, 72},
                                    {"opt-30b", false, 7.32, 144},  {"opt-30b", true, 8.38, 512},
                                    {"opt-175b", false, 0.69, 256}, {"opt-175b", true, 1.12, 144}};

struct Wishes {
  std::vector<std::string> machines = {"t4-fitted", "t4-peaks"}, shapes = {"opt-6.7b", "opt-30b", "opt-175b"};
  std::vector<int> prompts = {512, 1024}, chunks = {512, 2048, 4096};
  int answer = kPublishedAnswer;
  int sequences = 0;
  std::string json;
};

// A model of which only the facts are there, in a file of holes that has no name any more: nothing of it stays.
struct Outline {
  explicit Outline(const TinyModelOptions& options) {
    const std::filesystem::path path =
        std::filesystem::temp_directory_path() / fmt::format("spillway-{}-{}.gguf", getpid(), options.name);
    checkpoint = open_model(write_model_outline(options, path));
    std::filesystem::remove(path);
    spec = read_model_spec(checkpoint);
  }

  Checkpoint checkpoint;
  ModelSpec spec;
};

struct Case {
  std::string shape;
  bool compressed = false;  // weights and KV in 4 bits, as FlexGen compresses both
  int prompt = 0;
};

const Published* published(const Case& one, int answer) {
  if (one.prompt != kPublishedPrompt || answer != kPublishedAnswer) return nullptr;
  for (const Published& row : kPublished) {
    if (one.shape == row.shape && one.compressed == row.compressed) return &row;
  }
  return nullptr;
}

// FlexGen's groups of 64 have a scale and a minimum in half precision, 4.5 bits a weight: so has Q4_K.
TinyModelOptions options_of(const Case& one) {
  const auto shapes = opt_shapes();
  const auto found = shapes.find(one.shape);
  if (found == shapes.end()) throw Error(ErrorKind::usage, fmt::format("--shapes {}: no shape of OPT's", one.shape));
  TinyModelOptions options = found->second;
  options.name = one.shape;
  options.type = one.compressed ? DType::q4_k : DType::f16;
  return options;
}

std::string where(const Plan& plan, uint64_t TierPlan::*what) {
  const auto gib = [&](Tier tier) { return static_cast<double>(plan.tier(tier).*what) / (1 << 30); };
  return fmt::format("{:.1f}/{:.1f}/{:.1f}", gib(Tier::device), gib(Tier::host), gib(Tier::disk));
}

constexpr const char* kRow = "{:<9} {:<10} {:<7} {:>6} {:>10} {:>8} {:>8} {:>6} {:>6} {:>8} {:>8} {:>17} {:>17}\n";

void print_head(const GivenMachine& machine) {
  fmt::print("\nsimulated on {}: {} (given, not measured)\n", machine.name, machine.source);
  fmt::print(kRow, "", "shape", "weights", "prompt", "tokens/s", "bound", "FlexGen", "at once", "chunk", "decode by",
             "prompts", "weights GiB d/h/d", "KV GiB d/h/d");
}

void print_row(const Case& one, const std::optional<SimulatedBlock>& block, const Published* beside) {
  const std::string kind = one.compressed ? "4 bits" : "fp16";
  const std::string theirs = beside == nullptr ? "-" : fmt::format("{:.2f}", beside->tokens_per_second);
  if (!block) {
    fmt::print("simulated {} {} {}: does not fit\n", one.shape, kind, one.prompt);
    return;
  }
  fmt::print(kRow, "simulated", one.shape, kind, one.prompt, fmt::format("{:.2f}", block->tokens_per_second()),
             fmt::format("{:.2f}", block->bound_tokens_per_second()), theirs, block->plan.batch, block->plan.chunk,
             block->plan.expected.bound, fmt::format("{:.0f} %", 100 * block->prompt_s / block->seconds()),
             where(block->plan, &TierPlan::weights), where(block->plan, &TierPlan::kv));
  std::fflush(stdout);
}

nlohmann::json simulate(const Wishes& wishes, const GivenMachine& machine) {
  print_head(machine);
  nlohmann::json rows = nlohmann::json::array();
  for (const std::string& shape : wishes.shapes) {
    for (const bool compressed : {false, true}) {
      const Outline model(options_of({shape, compressed}));
      for (const int prompt : wishes.prompts) {
        const Case one{shape, compressed, prompt};
        const BlockWork work{.prompt = prompt,
                             .answer = wishes.answer,
                             .chunks = wishes.chunks,
                             .sequences = wishes.sequences,
                             .kv_codec = compressed ? KvCodec::q4 : KvCodec::f16,
                             .kv_edge_layers = compressed ? 0 : 2};
        const auto block = simulate_block(model.spec, model.checkpoint, machine, work);
        const Published* beside = published(one, wishes.answer);
        print_row(one, block, beside);
        nlohmann::json row = block ? to_json(*block) : nlohmann::json{{"simulated", true}, {"fits", false}};
        row["shape"] = shape;
        row["weight_type"] = info(model.spec.layers.front().q.dtype).name;
        row["kv_type"] = info(work.kv_codec).name;
        row["prompt"] = prompt;
        row["answer"] = wishes.answer;
        if (beside != nullptr) {
          row["flexgen"] = {{"tokens_per_second", beside->tokens_per_second}, {"sequences", beside->sequences}};
        }
        rows.push_back(std::move(row));
      }
    }
  }
  return {{"machine", to_json(machine)}, {"rows", std::move(rows)}};
}

int run(int argc, char** argv) {
  Wishes wishes;
  CLI::App app("FlexGen's published shapes, simulated: nothing is measured, and no weights are read.",
               "flexgen_shapes");
  app.add_option("--machine", wishes.machines, "t4-fitted, t4-peaks, or a .json file, as --json has machines")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--shapes", wishes.shapes, "opt-125m, opt-6.7b, opt-30b, opt-175b")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--prompts", wishes.prompts, "tokens")
      ->delimiter(',')
      ->check(CLI::Range(1, 2047))
      ->capture_default_str();
  app.add_option("--answer", wishes.answer, "tokens")->check(CLI::Range(1, 1024))->capture_default_str();
  app.add_option("--chunks", wishes.chunks, "tokens of prompts in a pass (-ub), the fastest of which counts")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--sequences", wishes.sequences, "in a block; 0: as many as plan_batch chooses")
      ->check(CLI::Range(0, 4096));
  app.add_option("--json", wishes.json, "file to write");
  CLI11_PARSE(app, argc, argv);
  nlohmann::json report = {{"what", "simulated: the planner's schedule in simulated time; nothing was run or measured"},
                           {"machines", nlohmann::json::array()}};
  for (const std::string& name : wishes.machines) report["machines"].push_back(simulate(wishes, given_machine(name)));
  if (wishes.json.empty()) return 0;
  std::FILE* file = std::fopen(wishes.json.c_str(), "w");
  if (file == nullptr) throw Error(ErrorKind::io, fmt::format("--json {}: cannot be written", wishes.json));
  const std::string text = report.dump(1) + "\n";
  const bool whole = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (std::fclose(file) != 0 || !whole) {
    throw Error(ErrorKind::io, fmt::format("--json {}: cannot be written", wishes.json));
  }
  return 0;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) { return spillway::run_tool("flexgen_shapes", spillway::run, argc, argv); }
