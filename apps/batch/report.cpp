#include "apps/batch/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "apps/progress.h"
#include "memory/format_bytes.h"

namespace spillway {
namespace {

double speed_of(const BatchReport& report) {
  return report.seconds > 0 ? static_cast<double>(report.tokens_in + report.tokens_out) / report.seconds : 0;
}

double percent(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

std::string links_text(const BatchReport& report, const LinkPeaks& peaks) {
  std::string text;
  for (int l = 0; l < kLinks; ++l) {
    const uint64_t all = report.bytes.of(static_cast<Link>(l));
    if (all == 0) continue;
    std::string causes;
    for (int c = 0; c < kCauses; ++c) {
      const uint64_t bytes = report.bytes.of(static_cast<Link>(l), static_cast<Cause>(c));
      if (bytes == 0) continue;
      causes += fmt::format("{}{} {}", causes.empty() ? "" : ", ", kCauseNames[c], format_bytes(bytes));
    }
    const double speed = report.seconds > 0 ? static_cast<double>(all) / report.seconds : 0;
    text += fmt::format("{:<15}  {} ({}), {}", kLinkNames[l], format_bytes(all), causes, format_speed(speed));
    if (const double peak = peaks.bytes_per_second[l]; peak > 0) {
      text += fmt::format(", {:.0f}% of {}{}", percent(speed, peak), format_speed(peak),
                          peaks.emulated[l] ? " *emulated*" : "");
    }
    text += "\n";
  }
  return text.empty() ? "moved            nothing\n" : text;
}

}  // namespace

std::string batch_line(const BatchCounts& counts, const BatchReport& report) {
  std::string text = fmt::format("{} of {} requests are answered", counts.answered, counts.requests);
  if (counts.errors > 0) text += fmt::format(", {} of them with an error", counts.errors);
  if (counts.before > 0) text += fmt::format(" ({} by earlier runs)", counts.before);
  if (report.requests > 0) {
    text += fmt::format("; {} tokens in and {} out in {}, {:.1f} tokens/s", report.tokens_in, report.tokens_out,
                        format_duration(report.seconds), speed_of(report));
  }
  return text;
}

std::string batch_stats_text(const BatchReport& report, const Plan& plan, const Metrics& metrics,
                             const LinkPeaks& peaks) {
  std::string text = fmt::format(
      "passes           {} in {:.1f} s, for prompts {:.1f} s ({:.1f} tokens/s), for answers {:.1f} s ({:.1f} "
      "tokens/s)\n",
      report.steps, report.decode_s + report.prefill_s, report.prefill_s, report.prefill_tps, report.decode_s,
      report.decode_tps);
  text += fmt::format("drawing          {:.1f} s of the passes ({:.1f}%)\n", report.drawing_s,
                      percent(report.drawing_s, report.decode_s + report.prefill_s));
  text += fmt::format("together         {:.1f} answers a pass, {} requests at most", report.mean_batch,
                      report.most_sequences);
  if (report.tokens_shared > 0) {
    text += fmt::format("; {:.1f}% of the prompts' tokens were there already",
                        percent(static_cast<double>(report.tokens_shared), static_cast<double>(report.tokens_in)));
  }
  text += "\n";
  if (report.short_of_pages + report.short_of_places > 0) {
    const auto share = [&](int64_t passes) {
      return percent(static_cast<double>(passes), static_cast<double>(report.steps));
    };
    text += fmt::format(
        "held back        the next request in {:.0f}% of the passes for want of pages, in {:.0f}% of a place (-np)\n",
        share(report.short_of_pages), share(report.short_of_places));
  }
  if (report.put_back > 0) {
    text += fmt::format(
        "put back         {} times a request without max_tokens, for want of pages; {} tokens computed "
        "again ({:.1f}% of all)\n",
        report.put_back, report.tokens_recomputed,
        percent(static_cast<double>(report.tokens_recomputed),
                static_cast<double>(report.decode_rows + report.prefill_rows)));
  }
  // Of the passes as they were: prompts share them with answers, and few answers cost nearly what many do.
  if (const double took = report.decode_s + report.prefill_s; report.expected_s > 0 && took > 0) {
    text += fmt::format("bound            {}: {:.1f} s expected for these passes, {:.0f}% of that speed reached\n",
                        plan.expected.bound, report.expected_s, percent(report.expected_s, took));
  }
  const BatchWaits& waits = report.waits;
  text +=
      fmt::format("waited           {:.2f} s for lines of the input, {:.2f} s for the output ({:.1f}% of the time)\n",
                  waits.next, waits.answer, percent(waits.next + waits.answer, report.seconds));
  if (report.steps > 0) {
    text += fmt::format("passes waited    {}\n", waits_text(waits.bytes, report.decode_s + report.prefill_s));
  }
  text += links_text(report, peaks);
  for (int t = 0; t < kTiers; ++t) {
    if (metrics.peak[t] == 0) continue;
    text += fmt::format("peak {:<12}{}", kTierNames[t], format_bytes(metrics.peak[t]));
    text += metrics.budget[t] > 0 ? fmt::format(" of {}\n", format_bytes(metrics.budget[t])) : "\n";
  }
  if (metrics.process_peak > 0) text += fmt::format("peak process     {}\n", format_bytes(metrics.process_peak));
  return text;
}

nlohmann::json batch_json(const BatchCounts& counts, const BatchReport& report, const Metrics& metrics) {
  Metrics all = metrics;
  all.prompt_tokens = report.tokens_in;
  all.timings.prefill_s = report.prefill_s;
  all.timings.prefill_tps = report.prefill_tps;
  all.timings.decode_s = report.decode_s;
  all.timings.decode_tps = report.decode_tps;
  all.decode = report.bytes;
  all.waits = report.waits.bytes;
  nlohmann::json json = metrics_json(all);
  json["requests"] = counts.requests;
  json["answered"] = counts.answered;
  json["answered_before"] = counts.before;
  json["errors"] = counts.errors;
  json["tokens_in"] = report.tokens_in;
  json["tokens_out"] = report.tokens_out;
  json["tokens_shared"] = report.tokens_shared;
  json["put_back"] = report.put_back;
  json["tokens_recomputed"] = report.tokens_recomputed;
  json["seconds"] = report.seconds;
  json["tokens_per_second"] = speed_of(report);
  json["passes"] = report.steps;
  json["passes_s"] = report.decode_s + report.prefill_s;
  json["drawing_s"] = report.drawing_s;
  json["expected_s"] = report.expected_s;
  json["mean_batch"] = report.mean_batch;
  json["most_sequences"] = report.most_sequences;
  json["held_back"] = {{"pages", report.short_of_pages}, {"places", report.short_of_places}};
  json["waited_s"]["input"] = report.waits.next;
  json["waited_s"]["output"] = report.waits.answer;
  json["interrupted"] = report.interrupted;
  return json;
}

}  // namespace spillway
