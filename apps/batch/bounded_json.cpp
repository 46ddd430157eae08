#include "apps/batch/bounded_json.h"

#include <fmt/format.h>

#include <vector>

#include "apps/batch/request_line.h"

namespace spillway {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMostDepth = 64;
constexpr int kMostKeys = 512;  // of one object: an ordered one looks at all of them for each
// What a value takes beside the text: a number its place in an array, anything else an allocation too.
constexpr size_t kNumberBytes = 16;
constexpr size_t kValueBytes = 64;
constexpr size_t kTimes = 4;            // the text
constexpr size_t kFreeBytes = 1 << 20;  // of a short line nobody asks

// What nlohmann::json says, without its number, its place and what it read last, which may be long.
std::string reason(const std::string& what) {
  size_t begin = what.find("syntax error");
  if (begin == std::string::npos) begin = std::min(what.find("] ") + 2, what.size());
  return what.substr(begin, std::min<size_t>(what.find("; last read", begin) - begin, 200));
}

// Reads without keeping anything. (The library's own callback, which would do in one reading, looks at a whole list at
// the end of each object in it.)
class Bounds : public nlohmann::json_sax<ordered_json> {
 public:
  explicit Bounds(size_t text_bytes) : left_(kTimes * text_bytes + kFreeBytes) {}

  bool null() override { return take(kNumberBytes); }
  bool boolean(bool) override { return take(kNumberBytes); }
  bool number_integer(number_integer_t) override { return take(kNumberBytes); }
  bool number_unsigned(number_unsigned_t) override { return take(kNumberBytes); }
  bool number_float(number_float_t, const string_t&) override { return take(kNumberBytes); }
  bool string(string_t&) override { return take(kValueBytes); }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return start(); }
  bool start_array(size_t) override { return start(); }
  bool end_object() override { return end(); }
  bool end_array() override { return end(); }
  bool key(string_t&) override {
    if (++keys_.back() > kMostKeys)
      throw LineFault("invalid_json", fmt::format("an object has over {} keys", kMostKeys));
    return take(kValueBytes);
  }
  bool parse_error(size_t byte, const std::string&, const nlohmann::detail::exception& error) override {
    throw LineFault("invalid_json", fmt::format("not JSON at byte {}: {}", byte, reason(error.what())));
  }

 private:
  bool take(size_t bytes) {
    if (bytes > left_) throw LineFault("invalid_json", "so many small values are no request");
    left_ -= bytes;
    return true;
  }
  bool start() {
    if (keys_.size() >= kMostDepth)
      throw LineFault("invalid_json", fmt::format("nested more than {} deep", kMostDepth));
    keys_.push_back(0);
    return take(kValueBytes);
  }
  bool end() {
    keys_.pop_back();
    return true;
  }

  size_t left_;
  std::vector<int> keys_;  // of each object, or list, that is open
};

}  // namespace

ordered_json parse_bounded_json(std::string_view text) {
  Bounds bounds(text.size());
  ordered_json::sax_parse(text.begin(), text.end(), &bounds);
  try {
    return ordered_json::parse(text.begin(), text.end());
  } catch (const ordered_json::exception& error) {  // a number that no double holds
    throw LineFault("invalid_json", "not JSON: " + reason(error.what()));
  }
}

}  // namespace spillway
