#include "loader/text/spm_merges.h"

#include <algorithm>
#include <unordered_map>

#include "kernels/check.h"
#include "loader/text/utf8.h"

namespace spillway {
namespace {

constexpr uint32_t kNone = UINT32_MAX;

struct Symbol {
  uint32_t begin, bytes;  // 0 bytes: merged into the one before it
  uint32_t previous, next;
};

// A pair that could merge. Stale once its bytes are no longer those of the two symbols.
struct Candidate {
  float score;
  uint32_t at;  // its left symbol
  uint32_t bytes;

  bool operator<(const Candidate& other) const {  // for a heap with the best on top
    return score != other.score ? score < other.score : at > other.at;
  }
};

std::vector<Symbol> characters(std::string_view word) {
  std::vector<Symbol> chain;
  for (uint32_t at = 0; at < word.size();) {
    const Utf8Char next = first_utf8(word.substr(at));
    const uint32_t bytes = next.step == Utf8Step::whole ? static_cast<uint32_t>(next.bytes) : 1;
    const auto number = static_cast<uint32_t>(chain.size());
    chain.push_back({at, bytes, number == 0 ? kNone : number - 1, number + 1});
    at += bytes;
  }
  if (!chain.empty()) chain.back().next = kNone;
  return chain;
}

// Takes unused pieces apart again, as they came together.
class Origins {
 public:
  void add(std::string_view piece, size_t left_bytes) { left_bytes_[piece] = left_bytes; }

  void append(std::string_view piece, std::vector<std::string_view>& parts) const {
    std::vector<std::string_view> open{piece};
    while (!open.empty()) {
      const std::string_view part = open.back();
      open.pop_back();
      const auto found = left_bytes_.find(part);
      if (found == left_bytes_.end()) {
        parts.push_back(part);
      } else {
        open.push_back(part.substr(found->second));
        open.push_back(part.substr(0, found->second));
      }
    }
  }

 private:
  std::unordered_map<std::string_view, size_t> left_bytes_;
};

}  // namespace

SpmMerges::SpmMerges(const std::vector<Piece>& pieces, size_t vocab)
    : ids_(pieces.size()), scores_(vocab), unused_(vocab) {
  for (const Piece& piece : pieces) {
    ids_.add(piece.text, piece.id);
    scores_[static_cast<size_t>(piece.id)] = piece.score;
    unused_[static_cast<size_t>(piece.id)] = piece.unused;
  }
}

std::vector<std::string_view> SpmMerges::merged(std::string_view word) const {
  SPILLWAY_CHECK(word.size() < kNone);
  std::vector<Symbol> chain = characters(word);
  std::vector<Candidate> heap;
  Origins origins;
  const auto offer = [&](uint32_t at) {
    if (at == kNone || chain[at].next == kNone) return;
    const uint32_t bytes = chain[at].bytes + chain[chain[at].next].bytes;
    const std::string_view piece = word.substr(chain[at].begin, bytes);
    const int32_t id = ids_.find(piece);
    if (id < 0) return;
    if (unused_[static_cast<size_t>(id)]) origins.add(piece, chain[at].bytes);
    heap.push_back({scores_[static_cast<size_t>(id)], at, bytes});
    std::push_heap(heap.begin(), heap.end());
  };
  for (uint32_t i = 0; i < chain.size(); ++i) offer(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate best = heap.back();
    heap.pop_back();
    Symbol& left = chain[best.at];
    if (left.bytes == 0 || left.next == kNone || left.bytes + chain[left.next].bytes != best.bytes) continue;
    Symbol& right = chain[left.next];
    left.bytes = best.bytes;
    right.bytes = 0;
    left.next = right.next;
    if (left.next != kNone) chain[left.next].previous = best.at;
    offer(left.previous);
    offer(best.at);
  }
  std::vector<std::string_view> parts;
  for (uint32_t at = chain.empty() ? kNone : 0; at != kNone; at = chain[at].next) {
    const std::string_view piece = word.substr(chain[at].begin, chain[at].bytes);
    const int32_t id = ids_.find(piece);
    if (id >= 0 && unused_[static_cast<size_t>(id)]) {
      origins.append(piece, parts);
    } else {
      parts.push_back(piece);
    }
  }
  return parts;
}

}  // namespace spillway
