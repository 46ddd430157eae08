// compare_logits: how far logits lie from reference logits of the same tokens: KL(reference || other) in nats, and how
// often the likeliest token is the same. One JSON object for each compared file, one a line.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "perf/npy_reader.h"
#include "perf/tool.h"

namespace spillway {
namespace {

// Logits less log-sum-exp, in double.
std::vector<double> log_softmax(const std::vector<float>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - top);
  std::vector<double> out(logits.begin(), logits.end());
  for (double& value : out) value -= top + std::log(sum);
  return out;
}

struct Tally {
  int64_t rows = 0, same_top = 0;
  double kl_sum = 0, kl_max = 0, error_max = 0;
  std::vector<double> kl;

  void add(const std::vector<float>& reference, const std::vector<float>& other) {
    const std::vector<double> p = log_softmax(reference), q = log_softmax(other);
    double divergence = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      divergence += std::exp(p[i]) * (p[i] - q[i]);
      error_max = std::max(error_max, std::abs(static_cast<double>(reference[i]) - other[i]));
    }
    if (!std::isfinite(divergence)) throw std::runtime_error(fmt::format("row {}: a logit is not finite", rows));
    ++rows;
    same_top += std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin();
    kl_sum += divergence;
    kl_max = std::max(kl_max, divergence);
    kl.push_back(divergence);
  }
};

int run(int argc, char** argv) {
  CLI::App app("KL divergence and top-1 agreement of logits (.npy, float32, tokens x vocabulary).", "compare_logits");
  std::string reference;
  std::vector<std::string> others;
  int64_t skip = 0;
  app.add_option("reference", reference)->required();
  app.add_option("other", others)->required();
  app.add_option("--skip", skip, "rows at the start to leave out");
  CLI11_PARSE(app, argc, argv);
  for (const std::string& path : others) {
    NpyReader left(reference), right(path);
    if (left.rows() != right.rows() || left.cols() != right.cols()) {
      throw std::runtime_error(fmt::format("{} is {} x {}, {} is {} x {}", reference, left.rows(), left.cols(), path,
                                           right.rows(), right.cols()));
    }
    if (left.rows() <= skip) throw std::runtime_error(fmt::format("{}: no row past --skip {}", reference, skip));
    Tally tally;
    std::vector<float> p, q;
    for (int64_t row = 0; row < left.rows(); ++row) {
      left.next(p);
      right.next(q);
      if (row >= skip) tally.add(p, q);
    }
    auto median = tally.kl.begin() + static_cast<std::ptrdiff_t>(tally.kl.size() / 2);
    std::nth_element(tally.kl.begin(), median, tally.kl.end());
    fmt::print(
        "{{\"file\": \"{}\", \"rows\": {}, \"kl_mean\": {:.6g}, \"kl_median\": {:.6g}, \"kl_max\": {:.6g}, "
        "\"top1_same\": {}, \"top1\": {:.6f}, \"logit_error_max\": {:.6g}}}\n",
        path, tally.rows, tally.kl_sum / static_cast<double>(tally.rows), *median, tally.kl_max, tally.same_top,
        static_cast<double>(tally.same_top) / static_cast<double>(tally.rows), tally.error_max);
  }
  return 0;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) { return spillway::run_tool("compare_logits", spillway::run, argc, argv); }
