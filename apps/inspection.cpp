#include "apps/inspection.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "apps/terminal_text.h"
#include "loader/chat_template.h"
#include "loader/chat_template_source.h"
#include "loader/tokenizer.h"
#include "memory/format_bytes.h"
#include "memory/kv/layout.h"

namespace spillway {
namespace {

constexpr size_t kMostItems = 64;    // of an array of metadata shown whole
constexpr size_t kTextColumns = 96;  // of a text of metadata, unless all is asked for

struct TypeTotal {
  size_t tensors = 0;
  uint64_t bytes = 0;
  double elements = 0;
};

std::map<std::string, TypeTotal> totals_by_type(const Checkpoint& checkpoint) {
  std::map<std::string, TypeTotal> totals;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    TypeTotal& total = totals[info(tensor.dtype).name];
    ++total.tensors;
    total.bytes += tensor.extent.bytes;
    total.elements += static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
  }
  return totals;
}

double parameters(const Checkpoint& checkpoint) {
  double sum = 0;
  for (const auto& [type, total] : totals_by_type(checkpoint)) sum += total.elements;
  return sum;
}

std::string count_text(double count) {
  if (count >= 1e9) return fmt::format("{:.2f} billion", count / 1e9);
  return count >= 1e6 ? fmt::format("{:.1f} million", count / 1e6) : fmt::format("{:.0f}", count);
}

const char* format_name(const Inspection& inspection) {
  std::error_code ignored;
  return std::filesystem::is_directory(inspection.path, ignored) ? "Hugging Face directory" : "GGUF";
}

std::string family_of(const Inspection& i) { return i.checkpoint.text("general.architecture", ""); }
std::string name_of(const Inspection& i) { return i.checkpoint.text("general.name", ""); }

uint64_t kv_bytes_per_position(const ModelShape& shape) {
  return 2ull * static_cast<uint64_t>(shape.layers) * static_cast<uint64_t>(shape.kv_width()) *
         row_bytes(DType::f16, 1);
}

template <typename T>
std::string items_text(const std::vector<T>& items) {
  if (items.size() > kMostItems) return fmt::format("[{} items]", items.size());
  std::string text;
  for (const T& item : items) text += (text.empty() ? "" : ", ") + fmt::format("{}", item);
  return "[" + text + "]";
}

std::string value_text(const MetaValue& value, bool all) {
  if (const auto* array = std::get_if<MetaArray>(&value)) {
    return terminal_text(std::visit([](const auto& items) { return items_text(items); }, *array));
  }
  if (const auto* text = std::get_if<std::string>(&value)) {
    const std::string shown = terminal_text(*text);
    if (all || shown.size() <= kTextColumns) return shown;
    return fmt::format("{}... ({} bytes)", clip_text(shown, kTextColumns), text->size());
  }
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (const auto* integer = std::get_if<int64_t>(&value)) return fmt::format("{}", *integer);
  return fmt::format("{:.7g}", std::get<double>(value));
}

nlohmann::json value_json(const MetaValue& value) {
  const auto array_json = [](const auto& items) {
    return items.size() > kMostItems ? nlohmann::json{{"length", items.size()}} : nlohmann::json(items);
  };
  if (const auto* array = std::get_if<MetaArray>(&value)) return std::visit(array_json, *array);
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* flag = std::get_if<bool>(&value)) return *flag;
  if (const auto* integer = std::get_if<int64_t>(&value)) return *integer;
  return std::get<double>(value);
}

std::string shape_text(const ModelShape& s) {
  std::string text = fmt::format(
      "{} layers, width {}, {} heads of {}, {} KV heads, feed-forward {}, vocabulary {}, "
      "{} positions",
      s.layers, s.hidden, s.heads, s.head_dim, s.kv_heads, s.ffn, s.vocab, s.context);
  if (s.experts > 0) {
    text += fmt::format(", {} experts of width {}, {} for a token", s.experts, s.expert_ffn, s.experts_used);
  }
  if (s.window > 0) text += fmt::format(", windows of {}", s.window);
  return text;
}

// Runs one part of the reading; what it refuses is a problem.
template <typename Part>
void attempt(Inspection& inspection, const Part& part) {
  try {
    part();
  } catch (const Error& error) {
    inspection.problems.emplace_back(error.what());
  }
}

}  // namespace

Inspection inspect(const std::string& path) {
  Inspection result{.path = path, .checkpoint = open_model(path)};
  attempt(result, [&] { result.spec = read_model_spec(result.checkpoint); });
  attempt(result, [&] { result.vocab = make_tokenizer(result.checkpoint)->vocab(); });
  attempt(result, [&] {
    result.template_source = chat_template_source(result.checkpoint);
    if (!result.template_source.empty()) ChatTemplate::from(result.checkpoint);
  });
  return result;
}

std::string inspection_text(const Inspection& i, bool all) {
  const Checkpoint& c = i.checkpoint;
  std::string text;
  const auto line = [&](std::string_view what, const std::string& value) {
    text += fmt::format("{:<12} {}\n", what, value);
  };
  line("file", terminal_text(i.path) + (c.files.size() > 1 ? fmt::format(" ({} parts)", c.files.size()) : ""));
  line("format", format_name(i));
  line("name", terminal_text(name_of(i)));
  line("family", terminal_text(family_of(i)) + (i.spec ? "" : " (cannot be run)"));
  if (i.spec) line("shape", shape_text(i.spec->shape));
  line("parameters", count_text(parameters(c)) + (i.spec && i.spec->tied ? ", output tied to the embedding" : ""));
  const uint64_t bytes = c.weight_bytes();
  line("weights", fmt::format("{} in {} tensors", format_bytes(bytes), c.tensors.size()));
  for (const auto& [type, total] : totals_by_type(c)) {
    line("", fmt::format("{:<8}{:>6} tensors {:>12} {:>5.1f} %", type, total.tensors, format_bytes(total.bytes),
                         100.0 * static_cast<double>(total.bytes) / static_cast<double>(std::max<uint64_t>(bytes, 1))));
  }
  if (i.spec) {
    const uint64_t kv = kv_bytes_per_position(i.spec->shape);
    line("KV", fmt::format("{} a position in half precision; {} for all {} positions", format_bytes(kv),
                           format_bytes(kv * static_cast<uint64_t>(i.spec->shape.context)), i.spec->shape.context));
  }
  line("tokenizer", i.vocab > 0 ? fmt::format("{} ids", i.vocab) : "none that can be read");
  line("template", i.template_source.empty() ? "none (chat --template gives one)"
                                             : fmt::format("yes, {} bytes", i.template_source.size()));
  for (const std::string& remark : c.remarks) line("remark", remark);
  for (const std::string& problem : i.problems) line("problem", problem);
  text += "\nmetadata\n";
  for (const auto& [key, value] : c.meta)
    text += fmt::format("  {} = {}\n", terminal_text(key), value_text(value, all));
  if (!all) return text;
  text += "\ntensors\n";
  for (const auto& [name, t] : c.tensors) {
    text += fmt::format("  {:<36} {:>8} x {:<8} {:<7} {:>12}  {} +{}\n", terminal_text(name), t.rows, t.cols,
                        info(t.dtype).name, format_bytes(t.extent.bytes), t.extent.file, t.extent.offset);
  }
  return text;
}

std::string inspection_json(const Inspection& i) {
  const Checkpoint& c = i.checkpoint;
  nlohmann::json out{{"path", i.path},
                     {"format", format_name(i)},
                     {"name", name_of(i)},
                     {"family", family_of(i)},
                     {"parameters", parameters(c)},
                     {"weight_bytes", c.weight_bytes()},
                     {"tokenizer", {{"ids", i.vocab}}},
                     {"chat_template", !i.template_source.empty()},
                     {"remarks", c.remarks},
                     {"problems", i.problems},
                     {"files", nlohmann::json::array()},
                     {"types", nlohmann::json::object()},
                     {"metadata", nlohmann::json::object()},
                     {"tensors", nlohmann::json::array()},
                     {"shape", nullptr}};
  for (const File& file : c.files) out["files"].push_back({{"path", file.path()}, {"bytes", file.bytes()}});
  if (i.spec) {
    const ModelShape& s = i.spec->shape;
    out["shape"] = {{"layers", s.layers},
                    {"hidden", s.hidden},
                    {"heads", s.heads},
                    {"kv_heads", s.kv_heads},
                    {"head_dim", s.head_dim},
                    {"ffn", s.ffn},
                    {"vocab", s.vocab},
                    {"context", s.context},
                    {"window", s.window},
                    {"experts", s.experts},
                    {"experts_used", s.experts_used},
                    {"expert_ffn", s.expert_ffn},
                    {"kv_bytes_per_position", kv_bytes_per_position(s)}};
  }
  for (const auto& [type, total] : totals_by_type(c)) {
    out["types"][type] = {{"tensors", total.tensors}, {"bytes", total.bytes}};
  }
  for (const auto& [key, value] : c.meta) out["metadata"][key] = value_json(value);
  for (const auto& [name, t] : c.tensors) {
    out["tensors"].push_back({{"name", name},
                              {"type", info(t.dtype).name},
                              {"rows", t.rows},
                              {"cols", t.cols},
                              {"bytes", t.extent.bytes},
                              {"file", t.extent.file},
                              {"offset", t.extent.offset}});
  }
  return out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace spillway
