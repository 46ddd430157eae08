#include "apps/batch/bounded_json.h"

#include <fmt/format.h>

#include <vector>

#include "apps/batch/request_line.h"

namespace spillway {
namespace {

using nlohmann::ordered_json;

constexpr int kMostDepth = 64;
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

class Bounds {
 public:
  explicit Bounds(size_t text_bytes) : left_(kTimes * text_bytes + kFreeBytes) {}

  bool operator()(int depth, ordered_json::parse_event_t event, const ordered_json& value) {
    using Event = ordered_json::parse_event_t;
    switch (event) {
      case Event::object_start:
      case Event::array_start:
        if (depth >= kMostDepth) throw LineFault("invalid_json", fmt::format("nested more than {} deep", kMostDepth));
        keys_.resize(static_cast<size_t>(depth) + 1);
        keys_.back() = 0;
        take(kValueBytes);
        break;
      case Event::key:
        // The keys of an object are one deeper than its beginning.
        if (++keys_.at(static_cast<size_t>(depth) - 1) > kMostKeys) {
          throw LineFault("invalid_json", fmt::format("an object has more than {} keys", kMostKeys));
        }
        take(kValueBytes);
        break;
      case Event::value:
        take(value.is_string() ? kValueBytes : kNumberBytes);
        break;
      default:
        break;
    }
    return true;
  }

 private:
  void take(size_t bytes) {
    if (bytes > left_) throw LineFault("invalid_json", "so many small values are no request");
    left_ -= bytes;
  }

  size_t left_;
  std::vector<int> keys_;  // of the object at each depth so far
};

}  // namespace

ordered_json parse_bounded_json(std::string_view text) {
  Bounds bounds(text.size());
  try {
    return ordered_json::parse(
        text.begin(), text.end(),
        [&](int depth, ordered_json::parse_event_t event, ordered_json& value) { return bounds(depth, event, value); });
  } catch (const ordered_json::parse_error& error) {
    throw LineFault("invalid_json", fmt::format("not JSON at byte {}: {}", error.byte, reason(error.what())));
  } catch (const ordered_json::exception& error) {
    throw LineFault("invalid_json", "not JSON: " + reason(error.what()));
  }
}

}  // namespace spillway
