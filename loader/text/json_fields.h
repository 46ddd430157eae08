// JsonFields: an object out of a file, field by field, each of the type it must have.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace spillway {

class JsonFields {
 public:
  // `where` begins every Error(model): the file, and the part of it. The object outlives this.
  JsonFields(const nlohmann::json& object, std::string where);

  // Missing or null: the fallback.
  std::string text(const char* key, const std::string& fallback) const;
  bool flag(const char* key, bool fallback) const;
  int64_t integer(const char* key, int64_t fallback) const;
  // Null where it is missing.
  const nlohmann::json& value(const char* key) const;
  // The objects of an array; none where it is missing.
  std::vector<JsonFields> list(const char* key) const;

  std::string type() const { return text("type", ""); }
  const std::string& where() const { return where_; }
  [[noreturn]] void refuse(const std::string& message) const;
  // That the object's type is none of those in `known`.
  [[noreturn]] void refuse_type(std::string_view known) const;

 private:
  [[noreturn]] void wrong_type(const char* key, const char* wanted) const;

  const nlohmann::json* object_;
  std::string where_;
};

}  // namespace spillway
