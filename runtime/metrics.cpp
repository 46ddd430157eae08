#include "runtime/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "memory/format_bytes.h"

namespace spillway {
namespace {

using Row = std::vector<std::string>;

// Columns aligned: the first to the left, the others to the right, two spaces between.
std::string table(const std::vector<Row>& rows) {
  std::vector<size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += i == 0 ? fmt::format("{:<{}}", row[i], widths[i]) : fmt::format("  {:>{}}", row[i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string seconds(double value) { return fmt::format("{:.{}f} s", value, value < 10 ? 2 : value < 100 ? 1 : 0); }

std::string times_text(const Metrics& metrics) {
  const Timings& t = metrics.timings;
  std::string text = fmt::format("load     {}\n", seconds(t.load_s));
  if (metrics.prompt_tokens > 0) {
    text += fmt::format("prefill  {} tokens in {}, {:.1f} tokens/s{}\n", metrics.prompt_tokens, seconds(t.prefill_s),
                        t.prefill_tps, t.ttft_s > 0 ? ", first token after " + seconds(t.ttft_s) : "");
  }
  if (metrics.decode_steps > 0) {
    text += fmt::format("decode   {} steps in {}, {:.1f} tokens/s\n", metrics.decode_steps, seconds(t.decode_s),
                        t.decode_tps);
  }
  return text;
}

// Of what was computed.
std::string waited_text(const Metrics& metrics) {
  const double computed = metrics.timings.prefill_s + metrics.timings.decode_s;
  return computed > 0 ? fmt::format("waited   {}\n", waits_text(metrics.waits, computed)) : "";
}

std::string share_text(double speed, double peak, bool emulated) {
  if (peak <= 0) return "not measured";
  return fmt::format("{:.0f}% of {}{}", 100 * speed / peak, format_speed(peak), emulated ? " *emulated*" : "");
}

std::string links_text(const Metrics& metrics, const LinkPeaks& peaks) {
  LinkBytes all = metrics.load;
  all += metrics.prefill;
  all += metrics.decode;
  std::vector<Cause> causes;
  for (int c = 0; c < kCauses; ++c) {
    uint64_t sum = 0;
    for (int l = 0; l < kLinks; ++l) sum += all.cells[l][c];
    if (sum > 0) causes.push_back(static_cast<Cause>(c));
  }
  if (causes.empty()) return "moved    nothing\n";

  const bool decoded = metrics.decode_steps > 0;
  const LinkBytes& phase = decoded ? metrics.decode : metrics.prefill;
  const double phase_s = decoded ? metrics.timings.decode_s : metrics.timings.prefill_s;
  const auto phase_tokens = static_cast<double>(decoded ? metrics.decode_steps : metrics.prompt_tokens);
  Row head = {"moved"};
  for (const Cause cause : causes) head.push_back(kCauseNames[static_cast<int>(cause)]);
  head.insert(head.end(),
              {"total", decoded ? "a step" : "a token", decoded ? "in decode" : "in prefill", "of the link"});
  std::vector<Row> rows = {head};
  for (int l = 0; l < kLinks; ++l) {
    const auto link = static_cast<Link>(l);
    if (all.of(link) == 0) continue;
    Row row = {kLinkNames[l]};
    for (const Cause cause : causes) row.push_back(format_bytes(all.of(link, cause)));
    row.push_back(format_bytes(all.of(link)));
    const auto moved = static_cast<double>(phase.of(link));
    if (phase_s > 0 && phase_tokens > 0) {
      row.push_back(format_bytes(static_cast<uint64_t>(moved / phase_tokens)));
      row.push_back(format_speed(moved / phase_s));
      row.push_back(share_text(moved / phase_s, peaks.bytes_per_second[l], peaks.emulated[l]));
    }
    rows.push_back(std::move(row));
  }
  return table(rows);
}

// How often an expert was where it was wanted.
std::string experts_text(const char* phase, const ExpertCounts& counts) {
  if (counts.asked == 0) return {};
  const auto percent = [&](uint64_t part) {
    return 100.0 * static_cast<double>(part) / static_cast<double>(counts.asked);
  };
  std::string text =
      fmt::format("experts  {} asked for in {}, {:.1f}% on the device", counts.asked, phase, percent(counts.on_device));
  if (counts.on_host > 0) text += fmt::format(", {:.1f}% in host RAM", percent(counts.on_host));
  return text + "\n";
}

// What decode steps have read of the KV, and where it was.
std::string chosen_text(const ChosenCounts& counts, const MissedMass& missed) {
  if (counts.granules == 0) return {};
  const auto percent = [](uint64_t part, uint64_t whole) {
    return 100.0 * static_cast<double>(part) / static_cast<double>(std::max<uint64_t>(whole, 1));
  };
  std::string text = fmt::format(
      "chosen   {:.1f}% of the tokens; {:.1f}% of that was on the device, {:.1f}% of the rest in the hot set",
      percent(counts.tokens, counts.tokens_seen), percent(counts.in_place, counts.granules),
      percent(counts.hits, counts.granules - counts.in_place));
  if (missed.heads > 0) text += fmt::format("; {:.1f}% of the attention missed", 100 * missed.mean());
  return text + "\n";
}

std::string peaks_text(const Metrics& metrics) {
  std::string text;
  for (int t = 0; t < kTiers; ++t) {
    if (metrics.peak[t] == 0 && metrics.budget[t] == 0) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", kTierNames[t], format_bytes(metrics.peak[t]));
    if (metrics.budget[t] > 0) text += " of " + format_bytes(metrics.budget[t]);
  }
  if (metrics.process_peak > 0) {
    text += fmt::format("{}process {}", text.empty() ? "" : ", ", format_bytes(metrics.process_peak));
  }
  return text.empty() ? "" : "peak     " + text + "\n";
}

}  // namespace

LinkBytes LinkBytes::of(const Traffic& traffic) {
  LinkBytes bytes;
  for (int l = 0; l < kLinks; ++l) {
    for (int c = 0; c < kCauses; ++c) bytes.cells[l][c] = traffic.bytes(static_cast<Link>(l), static_cast<Cause>(c));
  }
  return bytes;
}

uint64_t LinkBytes::of(Link link) const {
  uint64_t sum = 0;
  for (const uint64_t bytes : cells[static_cast<size_t>(link)]) sum += bytes;
  return sum;
}

LinkBytes& LinkBytes::operator+=(const LinkBytes& other) {
  for (int l = 0; l < kLinks; ++l) {
    for (int c = 0; c < kCauses; ++c) cells[l][c] += other.cells[l][c];
  }
  return *this;
}

LinkBytes LinkBytes::since(const LinkBytes& earlier) const {
  LinkBytes difference;
  for (int l = 0; l < kLinks; ++l) {
    for (int c = 0; c < kCauses; ++c) {
      SPILLWAY_CHECK(cells[l][c] >= earlier.cells[l][c]);
      difference.cells[l][c] = cells[l][c] - earlier.cells[l][c];
    }
  }
  return difference;
}

WaitSeconds WaitSeconds::of(const WaitClock* clock) {
  WaitSeconds waits{.measured = clock != nullptr};
  for (int l = 0; l < kLinks && clock != nullptr; ++l) {
    for (int c = 0; c < kCauses; ++c) {
      const uint8_t arrival = arrival_of(static_cast<Link>(l), static_cast<Cause>(c));
      waits.cells[l][c] = 1e-9 * static_cast<double>(clock->nanoseconds(arrival));
    }
  }
  return waits;
}

double WaitSeconds::total() const {
  double sum = 0;
  for (const auto& link : cells) sum += std::accumulate(link.begin(), link.end(), 0.0);
  return sum;
}

WaitSeconds& WaitSeconds::operator+=(const WaitSeconds& other) {
  measured |= other.measured;
  for (int l = 0; l < kLinks; ++l) {
    for (int c = 0; c < kCauses; ++c) cells[l][c] += other.cells[l][c];
  }
  return *this;
}

WaitSeconds WaitSeconds::since(const WaitSeconds& earlier) const {
  WaitSeconds difference{.measured = measured};
  for (int l = 0; l < kLinks; ++l) {
    for (int c = 0; c < kCauses; ++c) difference.cells[l][c] = std::max(0.0, cells[l][c] - earlier.cells[l][c]);
  }
  return difference;
}

PhaseCost& PhaseCost::operator+=(const PhaseCost& other) {
  tokens += other.tokens;
  seconds += other.seconds;
  bytes += other.bytes;
  waits += other.waits;
  return *this;
}

nlohmann::json chosen_json(const ChosenCounts& chosen) {
  return {{"tokens_read", chosen.tokens}, {"tokens_seen", chosen.tokens_seen},
          {"granules", chosen.granules},  {"in_place", chosen.in_place},
          {"hits", chosen.hits},          {"fetched", chosen.granules - chosen.in_place - chosen.hits}};
}

nlohmann::json metrics_json(const Metrics& metrics) {
  const Timings& t = metrics.timings;
  nlohmann::json json;
  json["timings"] = {{"load_s", t.load_s},     {"prefill_s", t.prefill_s},   {"prefill_tps", t.prefill_tps},
                     {"decode_s", t.decode_s}, {"decode_tps", t.decode_tps}, {"ttft_s", t.ttft_s}};
  LinkBytes all = metrics.load;
  all += metrics.prefill;
  all += metrics.decode;
  for (int l = 0; l < kLinks; ++l) {
    for (int c = 0; c < kCauses; ++c) json["bytes"][kLinkNames[l]][kCauseNames[c]] = all.cells[l][c];
  }
  for (const auto& [phase, counts] :
       {std::pair("prefill", metrics.prefill_experts), std::pair("decode", metrics.decode_experts)}) {
    json["experts"][phase] = {{"asked", counts.asked}, {"on_device", counts.on_device}, {"on_host", counts.on_host}};
  }
  json["selection"] = chosen_json(metrics.chosen);
  json["selection"]["missed_mass"] = metrics.missed.heads > 0 ? nlohmann::json(metrics.missed.mean()) : nullptr;
  nlohmann::json& waited = json["waited_s"]["compute"];
  for (int l = 0; l < kLinks && metrics.waits.measured; ++l) {
    for (int c = 0; c < kCauses; ++c) waited[kLinkNames[l]][kCauseNames[c]] = metrics.waits.cells[l][c];
  }
  for (int i = 0; i < kTiers; ++i) json["peak"][kTierNames[i]] = metrics.peak[i];
  return json;
}

std::string waits_text(const WaitSeconds& waits, double seconds) {
  if (!waits.measured) return "not measured: the device does not tell how long it stands still";
  constexpr double kSaid = 0.005;  // seconds
  std::vector<std::pair<double, std::string>> parts;
  for (int l = 0; l < kLinks; ++l) {
    for (int c = 0; c < kCauses; ++c) {
      const double value = waits.cells[l][c];
      if (value >= kSaid) parts.emplace_back(value, fmt::format("{} {} {:.2f} s", kCauseNames[c], kWayNames[l], value));
    }
  }
  std::stable_sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  const double total = waits.total();
  std::string text =
      fmt::format("{:.2f} s ({:.0f}%) for bytes on their way", total, seconds > 0 ? 100 * total / seconds : 0);
  for (size_t i = 0; i < parts.size(); ++i) text += (i == 0 ? ": " : ", ") + parts[i].second;
  return text;
}

std::string metrics_text(const Metrics& metrics, const LinkPeaks& peaks) {
  return times_text(metrics) + waited_text(metrics) + experts_text("prefill", metrics.prefill_experts) +
         experts_text("decode", metrics.decode_experts) + chosen_text(metrics.chosen, metrics.missed) +
         links_text(metrics, peaks) + peaks_text(metrics);
}

}  // namespace spillway
