#include "apps/quality_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "apps/reports.h"
#include "memory/format_bytes.h"

namespace spillway {
namespace {

constexpr double kPasskeyFloor = 0.95;  // of the full cache's answers, for a depth to count

double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

// Bytes of KV that a decode step moved, whatever the link.
double moved_per_step(const PolicyQuality& one, Link link) {
  return share(static_cast<double>(one.decode.bytes.of(link, Cause::kv_fetch)), static_cast<double>(one.decode.tokens));
}

uint64_t kv_on_device(const Plan& plan) {
  const TierPlan& device = plan.tier(Tier::device);
  return device.kv + device.selection + plan.kv_ring_bytes;
}

std::string passkey_text(const QualityReport& report, const PolicyQuality& one) {
  std::string text;
  for (size_t i = 0; i < one.passkeys.size(); ++i) {
    if (!text.empty()) text += " ";
    text += passkey_counts(report, i) ? fmt::format("{}/{}", one.passkeys[i].answered, one.passkeys[i].asked) : "-";
  }
  return text.empty() ? "-" : text;
}

std::string row(const QualityReport& report, const PolicyQuality& one, bool reference) {
  const double full = report.policies.front().all.perplexity();
  const bool chooses = one.chosen.granules > 0;
  const auto percent = [](double part) { return fmt::format("{:.1f} %", 100 * part); };
  return fmt::format(
      "| {} | {:.3f} ({:+.2f} %) | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
      one.policy.empty() ? "full, fp16" : one.policy, one.all.perplexity(),
      100 * (share(one.all.perplexity(), full) - 1), reference ? "-" : fmt::format("{:.5f}", one.all.mean_divergence()),
      reference ? "-" : fmt::format("{:.5f}", one.all.divergence_at(0.95)), reference ? "-" : percent(one.all.top1()),
      one.missed.heads > 0 ? percent(one.missed.mean())
      : chooses            ? "?"
                           : "0",
      chooses ? percent(share(one.chosen.tokens, one.chosen.tokens_seen)) : "100 %",
      one.chosen.granules > one.chosen.in_place
          ? percent(share(one.chosen.hits, one.chosen.granules - one.chosen.in_place))
          : "-",
      format_bytes(static_cast<uint64_t>(moved_per_step(one, Link::host_to_device))),
      format_bytes(static_cast<uint64_t>(moved_per_step(one, Link::disk_read))), format_bytes(kv_on_device(one.plan)),
      format_bytes(one.kv_kept),
      reference || one.all.greedy_tokens == 0 ? "-" : percent(share(one.all.greedy_same, one.all.greedy_tokens)));
}

nlohmann::json bytes_json(const PhaseCost& cost) {
  nlohmann::json links;
  for (int l = 0; l < kLinks; ++l) {
    for (int c = 0; c < kCauses; ++c) {
      links[kLinkNames[l]][kCauseNames[c]] =
          share(static_cast<double>(cost.bytes.cells[l][c]), static_cast<double>(cost.tokens));
    }
  }
  return links;
}

nlohmann::json tally_json(const QualityTally& tally) {
  return {{"rows", tally.divergences.size()},
          {"ppl", tally.perplexity()},
          {"kl", tally.mean_divergence()},
          {"kl_p95", tally.divergence_at(0.95)},
          {"top1", tally.top1()}};
}

nlohmann::json policy_json(const QualityReport& report, const PolicyQuality& one) {
  nlohmann::json json = tally_json(one.all);
  const ChosenCounts& chosen = one.chosen;
  json["policy"] = one.policy;
  json["windows"] = nlohmann::json::array();
  for (const QualityTally& window : one.windows) json["windows"].push_back(tally_json(window));
  json["missed_mass"] = one.missed.heads > 0 ? nlohmann::json(one.missed.mean()) : nullptr;
  json["selection"] = {{"tokens_read", chosen.tokens}, {"tokens_seen", chosen.tokens_seen},
                       {"granules", chosen.granules},  {"in_place", chosen.in_place},
                       {"hits", chosen.hits},          {"fetched", chosen.granules - chosen.in_place - chosen.hits}};
  json["bytes_per_step"] = bytes_json(one.decode);
  json["kv_device_bytes"] = kv_on_device(one.plan);
  json["kv_kept_bytes"] = one.kv_kept;
  json["decode_tps"] = share(static_cast<double>(one.decode.tokens), one.decode.seconds);
  json["greedy"] = {{"same", one.all.greedy_same}, {"tokens", one.all.greedy_tokens}};
  json["passkeys"] = nlohmann::json::array();
  for (size_t i = 0; i < one.passkeys.size(); ++i) {
    const PasskeyScore& score = one.passkeys[i];
    json["passkeys"].push_back({{"depth", score.depth},
                                {"answered", score.answered},
                                {"asked", score.asked},
                                {"counts", passkey_counts(report, i)}});
  }
  nlohmann::json plan = plan_json(one.plan);
  json["plan"] = {{"selection", plan["selection"]}, {"tiers", plan["tiers"]}, {"kv", plan["kv"]}};
  return json;
}

}  // namespace

bool passkey_counts(const QualityReport& report, size_t depth) {
  const PasskeyScore& full = report.policies.front().passkeys[depth];
  return full.asked > 0 && full.answered >= kPasskeyFloor * full.asked;
}

std::string quality_text(const QualityReport& report) {
  const auto& first = report.policies.front();
  std::string text = fmt::format("{}, {} windows of {} tokens of {}, the last {} of each by decode steps\n\n",
                                 report.model, first.windows.size(), report.window, report.text, report.steps);
  std::string passkeys;
  for (const PasskeyScore& score : first.passkeys) passkeys += fmt::format(" {} %", score.depth);
  text +=
      "| policy | perplexity | KL | KL p95 | top-1 | missed | read | hits | link/step | disk/step | KV on device | "
      "KV kept | greedy |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (size_t i = 0; i < report.policies.size(); ++i) text += row(report, report.policies[i], i == 0);
  if (first.passkeys.empty()) return text;
  text += fmt::format("\n| policy | passkey at{} |\n|---|---|\n", passkeys);
  for (const PolicyQuality& one : report.policies) {
    text += fmt::format("| {} | {} |\n", one.policy.empty() ? "full, fp16" : one.policy, passkey_text(report, one));
  }
  return text;
}

nlohmann::json quality_json(const QualityReport& report) {
  nlohmann::json json{
      {"model", report.model}, {"text", report.text}, {"window", report.window}, {"steps", report.steps}};
  json["policies"] = nlohmann::json::array();
  for (const PolicyQuality& one : report.policies) json["policies"].push_back(policy_json(report, one));
  return json;
}

}  // namespace spillway
