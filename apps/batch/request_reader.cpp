#include "apps/batch/request_reader.h"

#include <fmt/format.h>
#include <xxhash.h>

namespace spillway {

namespace {

constexpr size_t kFirstSlots = 1024;

}  // namespace

bool NameSet::insert(std::string_view name) {
  if (count_ * 3 >= slots_.size() * 2) grow();
  uint64_t hash = XXH3_64bits(name.data(), name.size());
  hash += hash == 0 ? 1 : 0;
  size_t at = hash & (slots_.size() - 1);
  while (slots_[at] != 0) {
    if (slots_[at] == hash) return false;
    at = (at + 1) & (slots_.size() - 1);
  }
  slots_[at] = hash;
  ++count_;
  return true;
}

void NameSet::grow() {
  std::vector<uint64_t> slots(slots_.empty() ? kFirstSlots : slots_.size() * 2);
  for (const uint64_t hash : slots_) {
    if (hash == 0) continue;
    size_t at = hash & (slots.size() - 1);
    while (slots[at] != 0) at = (at + 1) & (slots.size() - 1);
    slots[at] = hash;
  }
  slots_.swap(slots);
}

bool RequestReader::next(Item& item) {
  while (input_.next(line_)) {
    if (line_.number > journal_.lines()) input_.refuse_change();  // rewritten in place, with more line ends
    const bool ours = shard_.has(line_.request) && !journal_.done(line_.number);
    if (!ours) {
      if (const auto id = custom_id_of(line_.text)) names_.insert(*id);
      continue;
    }
    item.line = line_.number;
    item.fault.reset();
    try {
      if (line_.too_long) {
        throw LineFault("line_too_long", "much longer than any prompt of the context (-c), or than 16 MiB");
      }
      item.request = read_request_line(line_.text);
    } catch (const LineFault& fault) {
      item.fault = fault;
    }
    const std::string& id = item.fault ? item.fault->custom_id : item.request.custom_id;
    if (!id.empty() && !names_.insert(id)) {
      item.fault = LineFault("duplicate_custom_id", "custom_id: an earlier line has it", id);
    }
    return true;
  }
  return false;
}

}  // namespace spillway
