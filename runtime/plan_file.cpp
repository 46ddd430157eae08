#include "runtime/plan_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <span>

#include "kernels/check.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/whole_file.h"
#include "memory/file.h"
#include "runtime/fingerprint.h"

namespace spillway {
namespace {

using nlohmann::json;

constexpr int kFormat = 2;
constexpr uint64_t kMostFileBytes =
    4 << 20;  // of a model of 32 layers it has 20 KB; JSON takes many bytes in memory for one here
constexpr uint64_t kMostBytes = uint64_t{1} << 50;
constexpr int64_t kMostPositions = 1 << 30;
constexpr int64_t kMostSequences = 1 << 16;
constexpr int64_t kMostUnits = 1 << 24;

// One value of the file, with the name by which a refusal calls it.
class Field {
 public:
  Field(const json& value, const std::string& file, std::string name)
      : value_(value), file_(file), name_(std::move(name)) {}

  Field at(const char* key) const {
    const std::string name = name_.empty() ? key : name_ + "." + key;
    if (!value_.is_object()) refuse("an object is wanted");
    const auto found = value_.find(key);
    if (found == value_.end()) throw Error(ErrorKind::usage, fmt::format("--plan {}: {} is missing", file_, name));
    return {*found, file_, name};
  }
  std::vector<Field> list(size_t least, size_t most) const {
    if (!value_.is_array() || value_.size() < least || value_.size() > most) {
      refuse(fmt::format("a list of {} to {} is wanted", least, most));
    }
    std::vector<Field> fields;
    for (size_t i = 0; i < value_.size(); ++i) fields.emplace_back(value_[i], file_, fmt::format("{}[{}]", name_, i));
    return fields;
  }
  uint64_t whole(uint64_t least, uint64_t most) const {
    if (!value_.is_number_unsigned() || value_.get<uint64_t>() < least || value_.get<uint64_t>() > most) {
      refuse(fmt::format("a whole number of {} to {} is wanted", least, most));
    }
    return value_.get<uint64_t>();
  }
  int count(int64_t least, int64_t most) const {
    return static_cast<int>(whole(static_cast<uint64_t>(least), static_cast<uint64_t>(most)));
  }
  bool flag() const {
    if (!value_.is_boolean()) refuse("true or false is wanted");
    return value_.get<bool>();
  }
  double number(double most) const {
    const double value = value_.is_number() ? value_.get<double>() : -1;
    if (!(value >= 0 && value <= most)) refuse(fmt::format("a number of 0 to {:g} is wanted", most));
    return value;
  }
  std::string text() const {
    if (!value_.is_string()) refuse("a text is wanted");
    return value_.get<std::string>();
  }
  template <size_t kCount>
  int one_of(const std::array<int, kCount>& values) const {
    const int value = count(0, INT32_MAX);
    if (std::find(values.begin(), values.end(), value) == values.end()) {
      refuse(fmt::format("one of {} is wanted", fmt::join(values, ", ")));
    }
    return value;
  }
  bool is_null() const { return value_.is_null(); }
  // The index of the text among the names.
  template <typename Names>
  size_t one_of(const Names& names) const {
    const std::string word = text();
    const auto found = std::find(std::begin(names), std::end(names), word);
    if (found == std::end(names)) refuse(fmt::format("one of {} is wanted", fmt::join(names, ", ")));
    return static_cast<size_t>(found - std::begin(names));
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorKind::usage, fmt::format("--plan {}: {}{}{}", file_, name_, name_.empty() ? "" : ": ", what));
  }

 private:
  const json& value_;
  const std::string& file_;
  std::string name_;
};

constexpr const char* kDevices[] = {"cpu", "reference", "cuda"};
constexpr DeviceChoice kDeviceChoices[] = {DeviceChoice::cpu, DeviceChoice::reference, DeviceChoice::cuda};

std::vector<std::string> codec_names() {
  std::vector<std::string> names;
  for (const KvCodecInfo& codec : kKvCodecs) names.emplace_back(codec.name);
  return names;
}

json slots_json(const KvSlots& slots) { return {{"full", slots.full}, {"packed", slots.packed}}; }
KvSlots slots_of(const Field& field) {
  return {.full = static_cast<uint32_t>(field.at("full").whole(0, UINT32_MAX)),
          .packed = static_cast<uint32_t>(field.at("packed").whole(0, UINT32_MAX))};
}

// [["device", 12], ["disk", 3], ...]: runs of units that lie in the same tier.
json tiers_json(const std::vector<Tier>& tiers) {
  json runs = json::array();
  for (size_t i = 0, run; i < tiers.size(); i += run) {
    run = static_cast<size_t>(std::find_if(tiers.begin() + i, tiers.end(), [&](Tier t) { return t != tiers[i]; }) -
                              (tiers.begin() + i));
    runs.push_back({kTierNames[static_cast<int>(tiers[i])], run});
  }
  return runs;
}
std::vector<Tier> tiers_of(const Field& field) {
  std::vector<Tier> tiers;
  for (const Field& run : field.list(0, kMostUnits)) {
    const std::vector<Field> pair = run.list(2, 2);
    const auto tier = static_cast<Tier>(pair[0].one_of(kTierNames));
    tiers.insert(tiers.end(), pair[1].whole(1, kMostUnits - tiers.size()), tier);
  }
  return tiers;
}

json selection_json(const KvSelection& s) {
  if (!s.on()) return nullptr;
  return {{"selector", kKvSelectorNames[static_cast<int>(s.selector)]},
          {"keep", kKvRetentionNames[static_cast<int>(s.keep)]},
          {"tokens", s.tokens},
          {"share", s.share},
          {"alpha", s.alpha},
          {"top_p", s.top_p},
          {"rank", s.rank},
          {"key_bits", s.key_bits},
          {"granule", s.granule_tokens},
          {"whole_layers", s.whole_layers},
          {"repair", s.repair},
          {"ahead", s.ahead},
          {"hot_slots", s.hot_slots}};
}

// What a person may ask for, and no more: flags have the same bounds.
KvSelection selection_of(const Field& field, KvCodec codec) {
  KvSelection s;
  if (field.is_null()) return s;
  s.selector = kKvSelectors[field.at("selector").one_of(kKvSelectorNames)];
  s.keep = kKvRetentions[field.at("keep").one_of(kKvRetentionNames)];
  s.tokens = field.at("tokens").count(0, 1 << 28);
  s.share = field.at("share").number(1);
  if (s.share == 0) field.at("share").refuse("more than 0 is wanted");
  s.alpha = field.at("alpha").number(100);
  s.top_p = field.at("top_p").number(1);
  s.rank = field.at("rank").count(0, 4096);
  s.key_bits = field.at("key_bits").one_of(std::array{0, 4, 8, 16});
  s.granule_tokens = field.at("granule").one_of(std::array{1, 2, 4, 8, 16, 32, 64});
  s.whole_layers = field.at("whole_layers").count(0, 2);
  s.repair = field.at("repair").flag();
  s.ahead = field.at("ahead").count(1, 2);
  s.hot_slots = field.at("hot_slots").number(1000);
  if (s.hot_slots < 1) field.at("hot_slots").refuse("1 or more is wanted");
  try {
    check_policy(s, codec);
  } catch (const Error& error) {
    field.refuse(error.what());
  }
  return s;
}

json unit_json(const UnitChoices& unit) {
  return {{"first_layer", unit.first_layer},
          {"last_layer", unit.last_layer},
          {"unit_bytes", unit.sizes.unit_bytes},
          {"staging_piece_bytes", unit.sizes.piece_bytes},
          {"logit_rows", unit.sizes.logit_rows},
          {"hot_granules", unit.sizes.hot_slots},
          {"process_bytes", unit.process_bytes},
          {"lookahead", unit.lookahead},
          {"weight_tiers", tiers_json(unit.weight_tiers)},
          {"weight_ring_bytes", unit.weight_ring_bytes},
          {"kv",
           {{"device_rows_per_layer", unit.kv_device_rows_per_layer},
            {"choosing_rows_per_layer", unit.kv_choosing_rows_per_layer},
            {"host_slots", slots_json(unit.kv_host_slots)},
            {"ring_bytes", unit.kv_ring_bytes}}},
          {"experts",
           {{"tier", kTierNames[static_cast<int>(unit.expert_tier)]},
            {"device_slots", unit.expert_device_slots},
            {"host_slots", unit.expert_host_slots}}}};
}

UnitChoices unit_of(const Field& field) {
  UnitChoices unit;
  unit.first_layer = field.at("first_layer").count(0, kMostUnits);
  unit.last_layer = field.at("last_layer").count(0, kMostUnits);
  unit.sizes.unit_bytes = field.at("unit_bytes").whole(1, kMostBytes);
  unit.sizes.piece_bytes = field.at("staging_piece_bytes").whole(kDiskAlign, 1 << 30);
  if (unit.sizes.piece_bytes % kDiskAlign != 0) {
    field.at("staging_piece_bytes").refuse(fmt::format("a multiple of {} is wanted", kDiskAlign));
  }
  unit.sizes.logit_rows = field.at("logit_rows").count(1, kMostPositions);
  unit.sizes.hot_slots = field.at("hot_granules").count(0, kMostPositions);
  unit.process_bytes = field.at("process_bytes").whole(0, kMostBytes);
  unit.lookahead = field.at("lookahead").count(0, INT32_MAX);
  unit.weight_tiers = tiers_of(field.at("weight_tiers"));
  unit.weight_ring_bytes = field.at("weight_ring_bytes").whole(0, kMostBytes);
  const Field kv = field.at("kv");
  unit.kv_device_rows_per_layer = kv.at("device_rows_per_layer").count(0, kMostPositions);
  unit.kv_choosing_rows_per_layer = kv.at("choosing_rows_per_layer").count(0, kMostPositions);
  unit.kv_host_slots = slots_of(kv.at("host_slots"));
  unit.kv_ring_bytes = kv.at("ring_bytes").whole(0, kMostBytes);
  const Field experts = field.at("experts");
  unit.expert_tier = static_cast<Tier>(experts.at("tier").one_of(kTierNames));
  unit.expert_device_slots = experts.at("device_slots").count(0, kMostUnits);
  unit.expert_host_slots = experts.at("host_slots").count(0, kMostUnits);
  return unit;
}

UnitChoices choices_of(const Plan& plan, Tier process_in) {
  return {.first_layer = plan.first_layer,
          .last_layer = plan.last_layer,
          .sizes = {plan.unit_bytes, plan.staging.piece_bytes, plan.logit_rows, plan.selection.hot_slots},
          .process_bytes = plan.tier(process_in).process - plan.selection.lookup,
          .lookahead = plan.lookahead,
          .weight_tiers = plan.unit_tiers,
          .weight_ring_bytes = plan.weight_ring_bytes,
          .kv_device_rows_per_layer = plan.kv_device_rows_per_layer,
          .kv_choosing_rows_per_layer = plan.kv_choosing_rows_per_layer,
          .kv_host_slots = plan.kv_host_slots,
          .kv_ring_bytes = plan.kv_ring_bytes,
          .expert_tier = plan.expert_tier,
          .expert_device_slots = plan.expert_device_slots,
          .expert_host_slots = plan.expert_host_slots};
}

// Error(usage) where it is longer than any plan.
std::string text_of(const std::string& path) {
  try {
    const File file = File::open_read(path);
    if (file.bytes() > kMostFileBytes) {
      throw Error(ErrorKind::usage, fmt::format("longer than any plan ({} bytes)", kMostFileBytes));
    }
    std::string text(file.bytes(), '\0');
    file.read(0, std::as_writable_bytes(std::span(text)));
    return text;
  } catch (const Error& error) {
    throw Error(ErrorKind::usage, fmt::format("--plan {}: {}", path, error.what()));
  }
}

}  // namespace

PlanFile PlanFile::of(const Plan& plan, const PlanInput& input) {
  const Options& options = input.options;
  const Device& device = input.device;
  PlanFile file;
  file.model = input.spec.name;
  file.fingerprint = spillway::fingerprint(input.checkpoint);
  file.processor = processor_name();
  file.device = device.name();
  file.device_choice = device.kind() == DeviceKind::cuda           ? DeviceChoice::cuda
                       : options.device == DeviceChoice::reference ? DeviceChoice::reference
                                                                   : DeviceChoice::cpu;
  // Budgets as they were planned with: not all of them need have been given.
  file.device_bytes = plan.tier(Tier::device).budget;
  if (options.host_bytes || !device.host_addressable()) file.host_bytes = plan.tier(Tier::host).budget;
  file.disk_bytes = plan.tier(Tier::disk).budget;
  file.context = plan.context;
  file.chunk = plan.chunk;
  file.sequences = options.sequences;
  file.kv_codec = options.kv_codec;
  file.kv_edge_layers = options.kv_edge_layers;
  file.selection = options.selection.unchecked();
  file.link_bytes_per_second = options.link_bytes_per_second;
  for (const Plan& before : plan.before) file.units.push_back(choices_of(before, Tier::device));
  file.units.push_back(choices_of(plan, device.host_addressable() ? Tier::device : Tier::host));
  return file;
}

void PlanFile::write(const std::string& to, const Expected& expected) const {
  json list = json::array();
  for (const UnitChoices& unit : units) list.push_back(unit_json(unit));
  const auto choice = std::find(std::begin(kDeviceChoices), std::end(kDeviceChoices), device_choice);
  json file{{"spillway_plan", kFormat},
            {"model", {{"name", model}, {"fingerprint", fingerprint}}},
            {"machine",
             {{"processor", processor}, {"device", device}, {"kind", kDevices[choice - std::begin(kDeviceChoices)]}}},
            {"budgets",
             {{"device", device_bytes},
              {"host", host_bytes ? json(*host_bytes) : json()},
              {"disk", disk_bytes},
              {"link_bytes_per_second", link_bytes_per_second}}},
            {"context", context},
            {"chunk", chunk},
            {"sequences", sequences},
            {"kv_type", info(kv_codec).name},
            {"kv_edge_layers", kv_edge_layers},
            {"selection", selection_json(selection)},
            {"units", std::move(list)}};
  // For those who read it: nothing is taken from it.
  if (!expected.bound.empty()) {
    file["expected"] = {
        {"decode_tps", expected.decode_tps}, {"prefill_tps", expected.prefill_tps}, {"bound", expected.bound}};
  }
  WholeFile out(to);
  out.write(file.dump(1, ' ', false, json::error_handler_t::replace) + "\n");
  out.commit();
}

PlanFile PlanFile::read(const std::string& path) { return parse(text_of(path), path); }

PlanFile PlanFile::parse(const std::string& text, const std::string& path) {
  const json root = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object() || !root.contains("spillway_plan")) {
    throw Error(ErrorKind::usage, fmt::format("--plan {}: not a plan (spillway plan -o writes one)", path));
  }
  const Field top(root, path, "");
  const Field version = top.at("spillway_plan");
  if (!root["spillway_plan"].is_number_unsigned() || root["spillway_plan"] != kFormat) {
    version.refuse(fmt::format("this version of spillway reads format {} alone", kFormat));
  }
  PlanFile file;
  file.path = path;
  const Field about = top.at("model"), machine = top.at("machine"), budgets = top.at("budgets");
  file.model = about.at("name").text();
  file.fingerprint = about.at("fingerprint").text();
  file.processor = machine.at("processor").text();
  file.device = machine.at("device").text();
  file.device_choice = kDeviceChoices[machine.at("kind").one_of(kDevices)];
  file.device_bytes = budgets.at("device").whole(0, kMostBytes);
  if (const Field host = budgets.at("host"); !host.is_null()) file.host_bytes = host.whole(0, kMostBytes);
  file.disk_bytes = budgets.at("disk").whole(0, kMostBytes);
  file.link_bytes_per_second = budgets.at("link_bytes_per_second").number(1e16);
  file.context = top.at("context").count(1, kMostPositions);
  file.chunk = top.at("chunk").count(1, file.context);
  file.sequences = top.at("sequences").count(1, kMostSequences);
  file.kv_codec = kAllKvCodecs[top.at("kv_type").one_of(codec_names())];
  file.kv_edge_layers = top.at("kv_edge_layers").count(0, INT32_MAX);
  file.selection = selection_of(top.at("selection"), file.kv_codec);
  for (const Field& unit : top.at("units").list(1, 2)) file.units.push_back(unit_of(unit));
  return file;
}

}  // namespace spillway
