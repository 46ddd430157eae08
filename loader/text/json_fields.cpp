#include "loader/text/json_fields.h"

#include <fmt/format.h>

#include "kernels/check.h"
#include "loader/printable.h"

namespace spillway {

JsonFields::JsonFields(const nlohmann::json& object, std::string where) : object_(&object), where_(std::move(where)) {
  if (!object.is_object()) refuse("is no object");
}

void JsonFields::refuse(const std::string& message) const {
  throw Error(ErrorKind::model, fmt::format("{}: {}", where_, message));
}

void JsonFields::refuse_type(std::string_view known) const {
  refuse(fmt::format("the type \"{}\" is not known; known: {}", printable(type()), known));
}

void JsonFields::wrong_type(const char* key, const char* wanted) const {
  refuse(fmt::format("{} is not {}", key, wanted));
}

const nlohmann::json& JsonFields::value(const char* key) const {
  static const nlohmann::json none;
  const auto found = object_->find(key);
  return found == object_->end() ? none : *found;
}

std::string JsonFields::text(const char* key, const std::string& fallback) const {
  const nlohmann::json& found = value(key);
  if (found.is_null()) return fallback;
  if (!found.is_string()) wrong_type(key, "a text");
  return found.get<std::string>();
}

bool JsonFields::flag(const char* key, bool fallback) const {
  const nlohmann::json& found = value(key);
  if (found.is_null()) return fallback;
  if (!found.is_boolean()) wrong_type(key, "true or false");
  return found.get<bool>();
}

int64_t JsonFields::integer(const char* key, int64_t fallback) const {
  const nlohmann::json& found = value(key);
  if (found.is_null()) return fallback;
  if (!found.is_number_integer()) wrong_type(key, "an integer");
  return found.get<int64_t>();
}

std::vector<JsonFields> JsonFields::list(const char* key) const {
  const nlohmann::json& found = value(key);
  std::vector<JsonFields> result;
  if (found.is_null()) return result;
  if (!found.is_array()) wrong_type(key, "an array");
  for (const nlohmann::json& item : found) result.emplace_back(item, fmt::format("{}, {}", where_, key));
  return result;
}

}  // namespace spillway
