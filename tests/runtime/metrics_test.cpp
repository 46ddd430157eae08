#include "runtime/metrics.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace spillway {
namespace {

constexpr uint64_t kMiB = 1 << 20;

Metrics example() {
  Traffic traffic;
  traffic.add(Link::disk_read, Cause::weights, 100 * kMiB);
  Metrics m;
  m.load = LinkBytes::of(traffic);
  traffic.add(Link::disk_read, Cause::weights, 300 * kMiB);
  traffic.add(Link::device_to_host, Cause::kv_spill, 8 * kMiB);
  const LinkBytes prefilled = LinkBytes::of(traffic);
  m.prefill = prefilled.since(m.load);
  traffic.add(Link::disk_read, Cause::weights, 1000 * kMiB);
  traffic.add(Link::disk_read, Cause::kv_fetch, 200 * kMiB);
  traffic.add(Link::host_to_device, Cause::weights, 1000 * kMiB);
  m.decode = LinkBytes::of(traffic).since(prefilled);
  m.timings = {.load_s = 0.5, .prefill_s = 3.1, .prefill_tps = 193.55, .decode_s = 2, .decode_tps = 50, .ttft_s = 3.14};
  m.prompt_tokens = 600;
  m.decode_steps = 100;
  m.peak = {60 * kMiB, 31 * kMiB, 0};
  m.budget = {64 * kMiB, 32 * kMiB, 0};
  m.process_peak = 92 * kMiB;
  WaitClock clock;
  clock.add(arrival_of(Link::disk_read, Cause::weights), 765'000'000);
  clock.add(arrival_of(Link::host_to_device, Cause::weights), 255'000'000);
  m.waits = WaitSeconds::of(&clock);
  return m;
}

TEST(MetricsTest, PhasesAddUp) {
  const Metrics m = example();
  EXPECT_EQ(m.load.of(Link::disk_read), 100 * kMiB);
  EXPECT_EQ(m.prefill.of(Link::disk_read, Cause::weights), 300 * kMiB);
  EXPECT_EQ(m.decode.of(Link::disk_read), 1200 * kMiB);
  EXPECT_EQ(m.decode.of(Link::device_to_host), 0u);
}

TEST(MetricsTest, Text) {
  LinkPeaks peaks;
  peaks.bytes_per_second = {800e6, 0, 2e9, 0};
  peaks.emulated = {false, false, true, true};
  EXPECT_EQ(metrics_text(example(), peaks),
            "load     0.50 s\n"
            "prefill  600 tokens in 3.10 s, 193.6 tokens/s, first token after 3.14 s\n"
            "decode   100 steps in 2.00 s, 50.0 tokens/s\n"
            "waited   1.02 s (20%) for bytes on their way: weights from disk 0.77 s, weights from host 0.26 s\n"
            "moved            weights  kv_fetch  kv_spill     total  a step  in decode               of the link\n"
            "disk_read       1.37 GiB   200 MiB       0 B  1.56 GiB  12 MiB   629 MB/s           79% of 800 MB/s\n"
            "host_to_device  1000 MiB       0 B       0 B  1000 MiB  10 MiB   524 MB/s  26% of 2 GB/s *emulated*\n"
            "device_to_host       0 B       0 B     8 MiB     8 MiB     0 B      0 B/s              not measured\n"
            "peak     device 60 MiB of 64 MiB, host 31 MiB of 32 MiB, process 92 MiB\n");
}

TEST(MetricsTest, TextWithoutDecodeOrTraffic) {
  Metrics m = example();
  m.decode_steps = 0;
  EXPECT_NE(metrics_text(m, {}).find("a token  in prefill"), std::string::npos);
  EXPECT_NE(metrics_text(m, {}).find("101 MB/s"), std::string::npos);
  EXPECT_EQ(metrics_text({}, {}), "load     0.00 s\nmoved    nothing\n");
}

TEST(MetricsTest, ExpertsWhereTheyMove) {
  Metrics m = example();
  m.prefill_experts = {.asked = 200, .on_device = 50, .on_host = 0};
  m.decode_experts = {.asked = 1000, .on_device = 900, .on_host = 64};
  EXPECT_NE(metrics_text(m, {}).find("experts  200 asked for in prefill, 25.0% on the device\n"
                                     "experts  1000 asked for in decode, 90.0% on the device, 6.4% in host RAM\n"),
            std::string::npos);
  EXPECT_EQ(metrics_json(m)["experts"]["decode"]["on_host"], 64);
}

TEST(MetricsTest, WhatWasChosenOfTheKvHasItsShares) {
  Metrics m;
  m.chosen = {.granules = 400, .in_place = 100, .hits = 270, .tokens = 1600, .tokens_seen = 16000};
  EXPECT_NE(metrics_text(m, {}).find(
                "chosen   10.0% of the tokens; 25.0% of that was on the device, 90.0% of the rest in the hot set\n"),
            std::string::npos)
      << metrics_text(m, {});
  EXPECT_EQ(metrics_json(m)["selection"]["fetched"], 30);
  EXPECT_TRUE(metrics_json(m)["selection"]["missed_mass"].is_null());
  m.missed = {.sum = 3, .heads = 40};
  EXPECT_NE(metrics_text(m, {}).find("; 7.5% of the attention missed\n"), std::string::npos);
  EXPECT_EQ(metrics_json(m)["selection"]["missed_mass"], 0.075);
}

TEST(MetricsTest, JsonHasTheNamesOfTheInterface) {
  const nlohmann::json json = metrics_json(example());
  EXPECT_EQ(json["bytes"]["disk_read"]["weights"], 1400 * kMiB);
  EXPECT_EQ(json["bytes"]["device_to_host"]["kv_spill"], 8 * kMiB);
  ASSERT_EQ(json["bytes"].size(), 4u);
  for (const char* link : {"disk_read", "disk_write", "host_to_device", "device_to_host"}) {
    ASSERT_EQ(json["bytes"][link].size(), 7u) << link;
    for (const char* cause : {"weights", "experts", "kv_fetch", "kv_repair", "kv_check", "kv_spill", "activations"}) {
      EXPECT_TRUE(json["bytes"][link][cause].is_number_unsigned()) << link << " " << cause;
    }
  }
  ASSERT_EQ(json["timings"].size(), 6u);
  for (const char* name : {"load_s", "prefill_s", "prefill_tps", "decode_s", "decode_tps", "ttft_s"}) {
    EXPECT_TRUE(json["timings"][name].is_number()) << name;
  }
  EXPECT_EQ(json["timings"]["ttft_s"], 3.14);
  EXPECT_EQ(json["peak"], (nlohmann::json{{"device", 60 * kMiB}, {"host", 31 * kMiB}, {"disk", 0}}));
  for (const char* phase : {"prefill", "decode"}) {
    EXPECT_EQ(json["experts"][phase], (nlohmann::json{{"asked", 0}, {"on_device", 0}, {"on_host", 0}}));
  }
  const nlohmann::json& waited = json["waited_s"]["compute"];
  ASSERT_EQ(waited.size(), 4u);
  for (const auto& [link, causes] : json["bytes"].items()) {
    ASSERT_EQ(waited[link].size(), causes.size());
    for (const auto& [cause, bytes] : causes.items()) EXPECT_TRUE(waited[link][cause].is_number()) << link << cause;
  }
  EXPECT_EQ(waited["disk_read"]["weights"], 0.765);
  EXPECT_TRUE(metrics_json({})["waited_s"]["compute"].is_null()) << "not measured is not zero";
  EXPECT_EQ(json.size(), 6u);
}

}  // namespace
}  // namespace spillway
