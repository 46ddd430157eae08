// libFuzzer's mutations, and beside them one that knows JSON: of the first object in a case a value somewhere becomes
// another, so that a case stays one that is read to the end.
#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t bytes, size_t most);

namespace {

using nlohmann::json;
using Random = std::minstd_rand;

constexpr int kDeepest = 100;  // the library prints by recursion

json any_value(Random& random) {
  static const json kValues[] = {nullptr,
                                 true,
                                 -1,
                                 0,
                                 1,
                                 64,
                                 65,
                                 1 << 16,
                                 1 << 30,
                                 INT_MAX,
                                 uint64_t{1} << 31,
                                 UINT_MAX,
                                 uint64_t{1} << 50,
                                 INT64_MAX,
                                 UINT64_MAX,
                                 0.5,
                                 1e300,
                                 "",
                                 json::array(),
                                 json::object(),
                                 json::array({1, 2})};
  return kValues[random() % std::size(kValues)];
}

json& any_place(json& tree, Random& random) {
  json* at = &tree;
  while (at->is_structured() && !at->empty() && (at == &tree || random() % 8 != 0)) {
    at = &*std::next(at->begin(), static_cast<ptrdiff_t>(random() % at->size()));
  }
  return *at;
}

void change(json& value, Random& random) {
  if (!value.is_number_integer() || random() % 2 == 0) {
    value = any_value(random);
    return;
  }
  const auto number = value.get<uint64_t>();
  const uint64_t changed[] = {number + 1, number - 1, number * 2, number / 2, number * 64, number + 4096};
  value = changed[random() % std::size(changed)];
}

int depth_of(const char* begin, const char* end) {
  int depth = 0, deepest = 0;
  for (; begin != end; ++begin) {
    depth += (*begin == '[' || *begin == '{') - (*begin == ']' || *begin == '}');
    deepest = std::max(deepest, depth);
  }
  return deepest;
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t bytes, size_t most, unsigned seed) {
  Random random(seed);
  auto* const all = reinterpret_cast<char*>(data);
  char* const begin = std::find(all, all + bytes, '{');
  char* const end = std::find(begin, all + bytes, '\0');
  if (random() % 2 == 0 || depth_of(begin, end) > kDeepest) return LLVMFuzzerMutate(data, bytes, most);
  json tree = json::parse(begin, end, nullptr, /*allow_exceptions=*/false);
  if (!tree.is_object() || tree.empty()) return LLVMFuzzerMutate(data, bytes, most);
  for (auto count = 1 + random() % 3; count > 0; --count) change(any_place(tree, random), random);
  const std::string text = tree.dump(-1, ' ', false, json::error_handler_t::replace), after(end, all + bytes);
  const size_t now = static_cast<size_t>(begin - all) + text.size() + after.size();
  if (now > most) return LLVMFuzzerMutate(data, bytes, most);
  std::memcpy(begin, text.data(), text.size());
  std::memcpy(begin + text.size(), after.data(), after.size());
  return now;
}
