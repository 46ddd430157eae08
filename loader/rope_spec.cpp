#include "loader/rope_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>

#include "loader/printable.h"

namespace spillway {
namespace {

constexpr double kMostFactor = 1e6;

void check_factors(const ModelKeys& keys, const std::string& what, const std::vector<double>& factors, size_t count) {
  if (factors.size() != count) {
    keys.refuse(fmt::format("{} holds {} factors; {} are expected", what, factors.size(), count));
  }
  for (const double factor : factors) {
    if (!std::isfinite(factor) || factor <= 0.0) {
      keys.refuse(fmt::format("{} holds {}; factors are positive", what, factor));
    }
  }
}

// Of a tensor (GGUF) or a list among the keys (config.json); empty where there is neither.
std::vector<double> read_factors(const ModelKeys& keys, TensorTaker& take, const char* tensor, const char* key,
                                 size_t count) {
  std::vector<double> factors;
  if (take.has(tensor)) {
    const TensorInfo info = take.vector(tensor, static_cast<int64_t>(count));
    if (info.dtype != DType::f32) keys.refuse(fmt::format("{} is not of type F32", tensor));
    std::vector<float> stored(count);
    keys.checkpoint().files[info.extent.file].read(info.extent.offset, std::as_writable_bytes(std::span(stored)));
    factors.assign(stored.begin(), stored.end());
    check_factors(keys, tensor, factors, count);
  } else if (key != nullptr && keys.has(key)) {
    const auto* array = std::get_if<MetaArray>(&keys.checkpoint().meta.at(keys.key(key)));
    const auto* numbers = array != nullptr ? std::get_if<std::vector<double>>(array) : nullptr;
    if (numbers == nullptr) keys.refuse(fmt::format("{} is no list of numbers", keys.shown(key)));
    factors = *numbers;
    check_factors(keys, keys.shown(key), factors, count);
  }
  return factors;
}

// Long wavelengths are stretched, short ones kept, those in between blended (Llama 3.1's reference code).
void scale_llama3(const ModelKeys& keys, RopeSpec& rope) {
  const double factor = keys.number("rope.scaling.factor", 0.0, kMostFactor);
  const double low = keys.number("rope.scaling.low_freq_factor", 0.0, kMostFactor, 1.0);
  const double high = keys.number("rope.scaling.high_freq_factor", 0.0, kMostFactor, 4.0);
  const double context = keys.integer("rope.scaling.original_context_length", 1, 1 << 30);
  if (high <= low)
    keys.refuse(fmt::format("{} must lie above the low one", keys.shown("rope.scaling.high_freq_factor")));
  for (double& frequency : rope.frequencies) {
    const double turns = context * frequency / (2 * std::numbers::pi);
    const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    frequency = frequency * kept + frequency / factor * (1 - kept);
  }
}

// YaRN, section 3.2: pairs that turn often within the trained context are kept, those that turn less than once are
// interpolated, with a ramp between.
void scale_yarn(const ModelKeys& keys, double base, int dims, RopeSpec& rope) {
  const double factor = keys.number("rope.scaling.factor", 0.0, kMostFactor);
  const double context = keys.integer("rope.scaling.original_context_length", 1, 1 << 30);
  const double fast = keys.number("rope.scaling.yarn_beta_fast", 0.0, 1e6, 32.0);
  const double slow = keys.number("rope.scaling.yarn_beta_slow", 0.0, 1e6, 1.0);
  const auto pair_that_turns = [&](double turns) {
    return dims * std::log(context / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
  };
  const double first = std::max(std::floor(pair_that_turns(fast)), 0.0);
  double last = std::min(std::ceil(pair_that_turns(slow)), dims - 1.0);
  if (first == last) last += 0.001;
  for (size_t i = 0; i < rope.frequencies.size(); ++i) {
    const double interpolated = std::clamp((static_cast<double>(i) - first) / (last - first), 0.0, 1.0);
    rope.frequencies[i] *= interpolated / factor + (1 - interpolated);
  }
  const double magnitude = factor > 1 ? 0.1 * std::log(factor) + 1.0 : 1.0;
  rope.magnitude = keys.number("rope.scaling.attn_factor", 0.0, 100.0, magnitude);
}

// LongRoPE: a factor for each pair, one list up to the original context and one beyond.
void scale_longrope(const ModelKeys& keys, TensorTaker& take, RopeSpec& rope) {
  const size_t pairs = rope.frequencies.size();
  const auto near = read_factors(keys, take, "rope_factors_short.weight", "rope.scaling.short_factors", pairs);
  const auto far = read_factors(keys, take, "rope_factors_long.weight", "rope.scaling.long_factors", pairs);
  if (near.empty() || far.empty()) keys.refuse("LongRoPE's two lists of factors are not both there");
  rope.original_context = keys.integer("rope.scaling.original_context_length", 1, 1 << 30);
  rope.long_frequencies = rope.frequencies;
  for (size_t i = 0; i < pairs; ++i) {
    rope.long_frequencies[i] /= far[i];
    rope.frequencies[i] /= near[i];
  }
  const double stretch = keys.integer("context_length", 1, 1 << 30) / static_cast<double>(rope.original_context);
  const double magnitude = stretch > 1 ? std::sqrt(1 + std::log(stretch) / std::log(rope.original_context)) : 1.0;
  rope.magnitude = keys.number("rope.scaling.attn_factor", 0.0, 100.0, magnitude);
}

}  // namespace

RopeSpec plain_rope(double base, int dims) {
  RopeSpec rope{.frequencies = std::vector<double>(dims / 2), .long_frequencies = {}};
  for (int i = 0; i < dims / 2; ++i) rope.frequencies[i] = std::pow(base, -2.0 * i / dims);
  return rope;
}

RopeSpec read_rope(const ModelKeys& keys, TensorTaker& take, double base, int dims) {
  RopeSpec rope = plain_rope(base, dims);
  const bool factor_lists = take.has("rope_factors_short.weight") || take.has("rope_factors_long.weight");
  const std::string type = keys.text("rope.scaling.type", factor_lists ? "longrope" : "linear");
  if (type == "linear" || type == "none") {
    // Older files have the factor under another name.
    const double factor =
        keys.number("rope.scaling.factor", 0.0, kMostFactor, keys.number("rope.scale_linear", 0.0, kMostFactor, 1.0));
    if (type == "linear") {
      for (double& frequency : rope.frequencies) frequency /= factor;
    }
  } else if (type == "llama3") {
    scale_llama3(keys, rope);
  } else if (type == "yarn") {
    scale_yarn(keys, base, dims, rope);
  } else if (type == "longrope") {
    scale_longrope(keys, take, rope);
  } else {
    keys.refuse(fmt::format("the rotation is scaled by \"{}\" ({}); known: none, linear, llama3, yarn, longrope",
                            printable(type), keys.shown("rope.scaling.type")));
  }
  const auto factors = read_factors(keys, take, "rope_freqs.weight", nullptr, rope.frequencies.size());
  for (size_t i = 0; i < factors.size(); ++i) rope.frequencies[i] /= factors[i];
  return rope;
}

}  // namespace spillway
