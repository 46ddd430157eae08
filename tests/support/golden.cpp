#include "tests/support/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

namespace spillway {
namespace {

constexpr size_t kNpyHeaderBytes = 128;

// KL(p || q) of the softmaxes.
double divergence(const float* p, const float* q, int n) {
  const auto log_sum = [n](const float* x) {
    double most = x[0], sum = 0;
    for (int i = 1; i < n; ++i) most = std::max<double>(most, x[i]);
    for (int i = 0; i < n; ++i) sum += std::exp(x[i] - most);
    return most + std::log(sum);
  };
  const double lp = log_sum(p), lq = log_sum(q);
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += std::exp(p[i] - lp) * ((p[i] - lp) - (q[i] - lq));
  return sum;
}

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

std::vector<int32_t> golden_tokens(const std::string& path) {
  std::string text = bytes_of(path);
  for (char& c : text) c = c == ',' ? ' ' : c;
  std::istringstream in(text);
  return {std::istream_iterator<int32_t>(in), {}};
}

std::vector<float> golden_logits(const std::string& path) {
  const std::string bytes = bytes_of(path);
  EXPECT_GT(bytes.size(), kNpyHeaderBytes) << path;
  std::vector<float> logits((bytes.size() - kNpyHeaderBytes) / sizeof(float));
  std::memcpy(logits.data(), bytes.data() + kNpyHeaderBytes, logits.size() * sizeof(float));
  return logits;
}

Divergence divergence_of(const std::vector<float>& got, const std::vector<float>& golden, int vocab) {
  const size_t rows = got.size() / vocab / kGoldenStride;
  EXPECT_EQ(golden.size(), rows * vocab);
  Divergence found;
  for (size_t i = 0; i < rows; ++i) {
    const double kl = divergence(&golden[i * vocab], &got[(kGoldenStride * (i + 1) - 1) * vocab], vocab);
    found.mean += kl / rows;
    found.most = std::max(found.most, kl);
  }
  return found;
}

}  // namespace spillway
