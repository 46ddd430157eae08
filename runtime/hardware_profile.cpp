#include "runtime/hardware_profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace spillway {
namespace {

using nlohmann::json;

constexpr double kMostPerSecond = 1e16;  // bytes or operations; past any machine there is
constexpr uint64_t kMostBytes = uint64_t{1} << 50;
constexpr double kMostSeconds = 1e4;

// Reads fields and remembers whether all were as they should be.
class Fields {
 public:
  explicit Fields(const json& from) : from_(from), good_(from.is_object()) {}
  double number(const char* name, double most) {
    const json* field = find(name);
    if (field == nullptr || !field->is_number()) return fail();
    const double value = field->get<double>();
    return value >= 0 && value <= most ? value : fail();
  }
  uint64_t whole(const char* name, uint64_t most) {
    const json* field = find(name);
    if (field == nullptr || !field->is_number_unsigned() || field->get<uint64_t>() > most) {
      good_ = false;
      return 0;
    }
    return field->get<uint64_t>();
  }
  std::string text(const char* name) {
    const json* field = find(name);
    if (field != nullptr && field->is_string()) return field->get<std::string>();
    good_ = false;
    return "";
  }
  bool truth(const char* name) {
    const json* field = find(name);
    if (field != nullptr && field->is_boolean()) return field->get<bool>();
    return good_ = false;
  }
  const json* object(const char* name) {
    const json* field = find(name);
    if (field != nullptr && field->is_object()) return field;
    good_ = false;
    return nullptr;
  }
  bool good() const { return good_; }

 private:
  const json* find(const char* name) const {
    if (!from_.is_object()) return nullptr;
    const auto found = from_.find(name);
    return found == from_.end() ? nullptr : &*found;
  }
  double fail() {
    good_ = false;
    return 0;
  }
  const json& from_;
  bool good_;
};

std::optional<DType> type_of(const std::string& name) {
  for (size_t i = 0; i < std::size(kDTypeInfo); ++i) {
    if (name == kDTypeInfo[i].name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

std::optional<HeadShape> heads_of(const std::string& name) {
  HeadShape shape;
  int used = 0;
  const int read = std::sscanf(name.c_str(), "%d/%d x %d%n", &shape.heads, &shape.kv_heads, &shape.head_dim, &used);
  return read == 3 && used == static_cast<int>(name.size()) ? std::optional(shape) : std::nullopt;
}

json to_json(const Conditions& conditions) {
  return {{"others", conditions.others}, {"tries", static_cast<unsigned>(conditions.tries)}};
}

Conditions conditions_of(Fields& fields) {
  const json* found = fields.object("conditions");
  if (found == nullptr) return {};
  Fields inner(*found);
  const Conditions conditions{inner.number("others", 1), static_cast<int>(inner.whole("tries", 1000))};
  if (!inner.good()) fields.text("conditions");  // it is none
  return conditions;
}

// {"16": seconds}.
json rows_json(const std::map<int, double>& seconds_of) {
  json object = json::object();
  for (const auto& [rows, seconds] : seconds_of) object[std::to_string(rows)] = seconds;
  return object;
}

std::map<int, double> rows_of(Fields& fields, const char* name) {
  std::map<int, double> found;
  const json* object = fields.object(name);
  if (object == nullptr) return found;
  Fields inner(*object);
  for (const auto& [text, seconds] : object->items()) {
    int rows = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), rows);
    const double value = inner.number(text.c_str(), kMostSeconds);
    if (problem != std::errc{} || end != text.data() + text.size() || rows < 2 || value <= 0)
      fields.text(name);  // none
    found[rows] = value;
  }
  return found;
}

double faster(double a, double b) { return std::max(a, b); }
double shorter(double a, double b) { return a > 0 && b > 0 ? std::min(a, b) : std::max(a, b); }

Conditions better_of(const Conditions& a, const Conditions& b) {
  return {std::min(a.others, b.others), a.tries + b.tries};
}

}  // namespace

ComputeProfile better_of(ComputeProfile a, const ComputeProfile& b) {
  a.memory_read = faster(a.memory_read, b.memory_read);
  a.host_to_device = faster(a.host_to_device, b.host_to_device);
  a.device_to_host = faster(a.device_to_host, b.device_to_host);
  a.device_memory = faster(a.device_memory, b.device_memory);
  a.call_s = shorter(a.call_s, b.call_s);
  for (const auto& [type, speed] : b.weights) {
    WeightSpeed& own = a.weights[type];
    own.decode_bytes = faster(own.decode_bytes, speed.decode_bytes);
    own.prefill_flops = faster(own.prefill_flops, speed.prefill_flops);
  }
  for (const auto& [heads, speed] : b.attention) a.attention[heads] = faster(a.attention[heads], speed);
  a.working_set = std::min(a.working_set, b.working_set);
  a.conditions = better_of(a.conditions, b.conditions);
  return a;
}

DiskProfile better_of(DiskProfile a, const DiskProfile& b) {
  a.read = faster(a.read, b.read);
  a.write = faster(a.write, b.write);
  a.latency_s = shorter(a.latency_s, b.latency_s);
  a.conditions = better_of(a.conditions, b.conditions);
  return a;
}

LayerTimes better_of(LayerTimes a, const LayerTimes& b) {
  if (a.layers != b.layers || a.chunk != b.chunk) return b;  // of other memory: not the same
  a.decode_s = shorter(a.decode_s, b.decode_s);
  a.head_s = shorter(a.head_s, b.head_s);
  a.chunk_s = shorter(a.chunk_s, b.chunk_s);
  for (const auto& [rows, seconds] : b.rows_s) a.rows_s[rows] = shorter(a.rows_s[rows], seconds);
  for (const auto& [rows, seconds] : b.head_rows_s) a.head_rows_s[rows] = shorter(a.head_rows_s[rows], seconds);
  a.conditions = better_of(a.conditions, b.conditions);
  return a;
}

json to_json(const ComputeProfile& profile) {
  json weights = json::object();
  for (const auto& [type, speed] : profile.weights) {
    weights[info(type).name] = {{"decode_bytes", speed.decode_bytes}, {"prefill_flops", speed.prefill_flops}};
  }
  json attention = json::object();
  for (const auto& [shape, speed] : profile.attention) {
    attention[fmt::format("{}/{} x {}", shape.heads, shape.kv_heads, shape.head_dim)] = speed;
  }
  return {{"memory_read", profile.memory_read},
          {"host_to_device", profile.host_to_device},
          {"device_to_host", profile.device_to_host},
          {"device_memory", profile.device_memory},
          {"weights", weights},
          {"attention", attention},
          {"call_s", profile.call_s},
          {"working_set", profile.working_set},
          {"conditions", to_json(profile.conditions)}};
}

json to_json(const DiskProfile& profile) {
  return {{"read", profile.read},
          {"write", profile.write},
          {"latency_s", profile.latency_s},
          {"method", profile.method},
          {"through_cache", profile.through_cache},
          {"conditions", to_json(profile.conditions)}};
}

json to_json(const LayerTimes& times) {
  return {{"layers", static_cast<unsigned>(times.layers)},
          {"chunk", static_cast<unsigned>(times.chunk)},
          {"decode_s", times.decode_s},
          {"head_s", times.head_s},
          {"chunk_s", times.chunk_s},
          {"rows_s", rows_json(times.rows_s)},
          {"head_rows_s", rows_json(times.head_rows_s)},
          {"conditions", to_json(times.conditions)}};
}

std::optional<ComputeProfile> compute_profile_from(const json& from) {
  Fields fields(from);
  ComputeProfile profile;
  profile.memory_read = fields.number("memory_read", kMostPerSecond);
  profile.host_to_device = fields.number("host_to_device", kMostPerSecond);
  profile.device_to_host = fields.number("device_to_host", kMostPerSecond);
  profile.device_memory = fields.number("device_memory", kMostPerSecond);
  profile.working_set = fields.whole("working_set", kMostBytes);
  profile.call_s = fields.number("call_s", 1);
  profile.conditions = conditions_of(fields);
  const json* weights = fields.object("weights");
  const json* attention = fields.object("attention");
  if (!fields.good()) return std::nullopt;
  for (const auto& [name, speed] : attention->items()) {
    const std::optional<HeadShape> shape = heads_of(name);
    Fields inner(*attention);
    const double read = inner.number(name.c_str(), kMostPerSecond);
    if (!shape || !inner.good()) return std::nullopt;
    profile.attention[*shape] = read;
  }
  for (const auto& [name, speed] : weights->items()) {
    const std::optional<DType> type = type_of(name);
    Fields inner(speed);
    const WeightSpeed read{inner.number("decode_bytes", kMostPerSecond), inner.number("prefill_flops", kMostPerSecond)};
    if (!type || !inner.good() || read.decode_bytes == 0 || read.prefill_flops == 0) return std::nullopt;
    profile.weights[*type] = read;
  }
  return profile;
}

std::optional<DiskProfile> disk_profile_from(const json& from) {
  Fields fields(from);
  DiskProfile profile;
  profile.read = fields.number("read", kMostPerSecond);
  profile.write = fields.number("write", kMostPerSecond);
  profile.latency_s = fields.number("latency_s", 1000);
  profile.method = fields.text("method");
  profile.through_cache = fields.truth("through_cache");
  profile.conditions = conditions_of(fields);
  return fields.good() ? std::optional(profile) : std::nullopt;
}

std::optional<LayerTimes> layer_times_from(const nlohmann::json& from) {
  Fields fields(from);
  LayerTimes times;
  times.layers = static_cast<int>(fields.whole("layers", 1 << 20));
  times.chunk = static_cast<int>(fields.whole("chunk", 1 << 20));
  times.decode_s = fields.number("decode_s", kMostSeconds);
  times.head_s = fields.number("head_s", kMostSeconds);
  times.chunk_s = fields.number("chunk_s", kMostSeconds);
  times.rows_s = rows_of(fields, "rows_s");
  times.head_rows_s = rows_of(fields, "head_rows_s");
  times.conditions = conditions_of(fields);
  const bool whole = times.layers > 0 && times.chunk > 0 && times.decode_s > 0 && times.chunk_s > 0;
  return fields.good() && whole ? std::optional(times) : std::nullopt;
}

}  // namespace spillway
