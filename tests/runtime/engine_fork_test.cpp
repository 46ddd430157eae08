// Sequences that share their beginnings: whatever forks, writes on and closes in whatever order, and wherever the pages
// lie, each sequence gives the logits, to the bit, that it gives alone from its first token on.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <random>

#include "kernels/backend.h"
#include "kernels/kv_span.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

constexpr int kSequences = 4;  // alive at once

// What is done to sequences, by numbers of their own.
struct Act {
  enum Kind { open, fork, prefill, decode, close } kind;
  int sequence = 0;
  int from = 0;                 // of a fork
  std::vector<int32_t> tokens;  // of prefill and decode
};
using Script = std::vector<Act>;

// A life of sequences that fork in the middle of pages and at their ends, and outlive those they came from.
class Life {
 public:
  Life(uint64_t seed, int vocab) : random_(seed), vocab_(vocab) {}

  Script script(int acts) {
    begin(700 + upto(100));
    for (int i = 0; i < acts; ++i) {
      const int sequence = alive_[upto(static_cast<int>(alive_.size()))];
      switch (upto(8)) {
        case 0:
        case 1:
        case 2:
          if (static_cast<int>(alive_.size()) < kSequences) fork(sequence);
          break;
        case 3:
          grow(Act::prefill, sequence, 1 + upto(150));
          break;
        case 4:
          grow(Act::prefill, sequence, kPageTokens - tokens_[sequence] % kPageTokens);
          break;  // to the page's end
        case 5:
        case 6:
          grow(Act::decode, sequence, 1 + upto(4));
          break;
        case 7:
          // The eldest goes first: what others share with it must stay.
          if (alive_.size() > 1) close(alive_.front());
          break;
      }
    }
    while (!alive_.empty()) close(alive_.back());
    begin(300);  // in places that all others have left
    close(alive_.back());
    return script_;
  }

 private:
  int upto(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }
  void begin(int prompt) {
    alive_.push_back(next_);
    script_.push_back({.kind = Act::open, .sequence = next_});
    grow(Act::prefill, next_++, prompt);
  }
  void fork(int from) {
    tokens_[next_] = tokens_[from];
    alive_.push_back(next_);
    script_.push_back({.kind = Act::fork, .sequence = next_++, .from = from});
  }
  void grow(Act::Kind kind, int sequence, int count) {
    tokens_[sequence] += count;
    script_.push_back({.kind = kind, .sequence = sequence, .tokens = random_ids(random_(), count, vocab_)});
  }
  void close(int sequence) {
    std::erase(alive_, sequence);
    script_.push_back({.kind = Act::close, .sequence = sequence});
  }

  std::mt19937_64 random_;
  int vocab_;
  Script script_;
  std::vector<int> alive_;
  std::map<int, int> tokens_;
  int next_ = 0;
};

// Runs one act's tokens and returns every row of logits: of the last two tokens of a prefill, and of each decode step.
std::vector<float> run(Engine& engine, SequenceId sequence, const Act& act) {
  std::vector<float> rows;
  const auto keep = [&](std::span<const float> row) { rows.insert(rows.end(), row.begin(), row.end()); };
  if (act.kind == Act::prefill) {
    const int wanted = std::min<int>(2, static_cast<int>(act.tokens.size()));
    engine.prefill(sequence, act.tokens, wanted, true, [&](int, std::span<const float> row) { keep(row); });
  } else {
    for (size_t i = 0; i < act.tokens.size(); ++i)
      keep(engine.decode(sequence, act.tokens[i], i + 1 < act.tokens.size()));
  }
  return rows;
}

// Positions of all sequences together at most, what they have in common counted once.
int most_positions(const Script& script) {
  std::map<int, std::map<int, int>> parts;  // sequence -> act that wrote the tokens -> how many
  int most = 0;
  for (size_t i = 0; i < script.size(); ++i) {
    const Act& act = script[i];
    if (act.kind == Act::fork) parts[act.sequence] = parts[act.from];
    if (act.kind == Act::close) parts.erase(act.sequence);
    if (!act.tokens.empty()) parts[act.sequence][static_cast<int>(i)] = static_cast<int>(act.tokens.size());
    std::map<int, int> all;
    for (const auto& [sequence, own] : parts) all.insert(own.begin(), own.end());
    int sum = 0;
    for (const auto& [number, count] : all) sum += count;
    most = std::max(most, sum);
  }
  return most;
}

class EngineFork : public ::testing::Test {
 protected:
  void use(const TinyModelOptions& options) {
    model_ = std::make_unique<Model>(open_for_test(write_tiny_model(options, ::testing::TempDir())));
  }

  // Each act's logits, every sequence alone and from its first token on, all of it on the device.
  std::map<size_t, std::vector<float>> alone(const Script& script, int positions, Options options) const {
    const auto device = make_cpu_device({.threads = 1});
    options.device_bytes = 1ull << 30;
    options.context = positions;
    std::map<size_t, std::vector<float>> expected;
    std::map<int, std::vector<size_t>> histories;
    for (size_t i = 0; i < script.size(); ++i) {
      const Act& act = script[i];
      if (act.kind == Act::fork) histories[act.sequence] = histories[act.from];
      if (!act.tokens.empty()) histories[act.sequence].push_back(i);
    }
    for (const auto& [number, history] : histories) {
      Engine fresh = engine_for_test(*model_, options, *device);
      const SequenceId sequence = fresh.open_sequence();
      for (size_t i : history) {
        std::vector<float> logits = run(fresh, sequence, script[i]);
        if (script[i].sequence == number) expected[i] = std::move(logits);
      }
    }
    return expected;
  }

  void play(const Script& script, const std::map<size_t, std::vector<float>>& expected, Device& device,
            Options& options, Device* cpu);
  void check_page_use(const Engine& engine, const std::map<int, SequenceId>& ids) const;

  std::unique_ptr<Model> model_;
  std::map<std::string, int> counts_;
};

uint64_t kv_in_use(const Engine& engine) {
  return engine.kv_bytes(Tier::device) + engine.kv_bytes(Tier::host) + engine.kv_bytes(Tier::disk);
}

void EngineFork::play(const Script& script, const std::map<size_t, std::vector<float>>& expected, Device& device,
                      Options& options, Device* cpu) {
  Engine shared = raised_engine(*model_, options, device, cpu);
  std::map<int, SequenceId> ids;
  for (size_t i = 0; i < script.size(); ++i) {
    const Act& act = script[i];
    const uint64_t before = kv_in_use(shared);
    switch (act.kind) {
      case Act::open:
        ids[act.sequence] = shared.open_sequence();
        break;
      case Act::fork:
        ids[act.sequence] = shared.fork_sequence(ids.at(act.from));
        ASSERT_EQ(kv_in_use(shared), before) << "a fork shares every page";
        ASSERT_EQ(shared.tokens(ids[act.sequence]), shared.tokens(ids.at(act.from)));
        counts_["forks"] += 1;
        counts_["forks of pages on host"] += shared.kv_bytes(Tier::host) > 0;
        counts_["forks of pages on disk"] += shared.kv_bytes(Tier::disk) > 0;
        counts_["forks at a page's end"] += shared.tokens(ids[act.sequence]) % kPageTokens == 0;
        break;
      case Act::close:
        shared.close_sequence(ids.at(act.sequence));
        ids.erase(act.sequence);
        ASSERT_LE(kv_in_use(shared), before);
        counts_["closed while others live"] += !ids.empty();
        break;
      case Act::prefill:
      case Act::decode: {
        const std::vector<float> logits = run(shared, ids.at(act.sequence), act);
        const std::vector<float>& wanted = expected.at(i);
        ASSERT_EQ(logits.size(), wanted.size());
        ASSERT_EQ(std::memcmp(logits.data(), wanted.data(), wanted.size() * sizeof(float)), 0)
            << "act " << i << ": " << act.tokens.size() << " tokens of sequence " << act.sequence;
      }
    }
  }
  EXPECT_EQ(kv_in_use(shared), 0u) << "a page is held for nobody";
  const Plan& plan = shared.plan();
  for (Tier tier : {Tier::device, Tier::host}) EXPECT_LE(shared.peak(tier), plan.tier(tier).budget);
  counts_["cases"] += 1;
  counts_["cases with KV on host"] +=
      shared.peak(Tier::host) > plan.tier(Tier::host).total() - plan.tier(Tier::host).kv;
  counts_["cases with KV on disk"] += shared.peak(Tier::disk) > 0;
  counts_["cases with streamed weights"] += plan.streams_weights();
  counts_["cases divided with a CPU"] += plan.first_layer > 0;
}

TEST_F(EngineFork, EverySequenceAnswersAsIfAlone) {
  std::mt19937_64 random(5);
  for (int script_number = 0; script_number < 5; ++script_number) {
    Options common;  // what the answer depends on
    if (script_number % 2 == 0 && script_number > 0) common.kv_codec = KvCodec::kivi4;
    if (script_number == 1) common.kv_codec = KvCodec::f32;
    if (script_number >= 3) {
      common.selection = {.selector = KvSelector::rehearsal, .rank = 8, .whole_layers = script_number - 3};
    }
    common.kv_edge_layers = 1;
    use({.layers = 3,
         .hidden = 64,
         .heads = 4,
         .kv_heads = 2,
         .head_dim = 16,
         .ffn = 160,
         .vocab = 320,
         .type = script_number % 2 == 0 ? DType::q8_0 : DType::q4_1,
         .seed = 70u + script_number,
         .name = "fork"});
    const Script script = Life(100 + script_number, 320).script(30);
    const int positions = most_positions(script);
    const auto expected = alone(script, 2000, common);
    const uint64_t kv =
        (script_number == 1 ? 8ull : 4ull) * model_->spec.shape.kv_width() * positions * model_->spec.shape.layers;
    for (int i = 0; i < 8; ++i) {
      Options options = common;
      options.disk_directory = ::testing::TempDir();
      options.context = positions;
      options.sequences = kSequences;
      const int chunk = 100 + static_cast<int>(random() % 400);
      if (!packs(common.kv_codec)) options.chunk = chunk;  // a chunk reads its own pages before they are packed
      options.lookahead = static_cast<int>(random() % 4);
      options.device_bytes = i == 0 ? 1ull << 30 : 256 << 10;
      if (i % 3 != 1) options.host_bytes = (6ull << 20) + kv / 2 + random() % kv;
      if (i % 3 != 2) options.disk_bytes = 2 * kv;
      const auto device = make_cpu_device({.threads = 1 + i % 3});
      std::unique_ptr<Device> cpu;
      // Of divided layers those that nothing foretells are others.
      if (i >= 5 && options.host_bytes && !common.selection.on()) {
        options.device_layers = 1 + i % 2;
        cpu = make_cpu_device({.threads = 1});
      }
      SCOPED_TRACE(fmt::format("script {} case {}", script_number, i));
      play(script, expected, *device, options, cpu.get());
      if (HasFatalFailure()) return;
    }
  }
  for (const auto& [what, count] : counts_) std::printf("  %5d  %s\n", count, what.c_str());
  for (const auto& [what, count] : counts_) EXPECT_GE(count, 3) << what;
}

}  // namespace
}  // namespace spillway
