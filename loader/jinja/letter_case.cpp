#include "loader/jinja/letter_case.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "loader/jinja/character_kinds.h"
#include "loader/jinja/context.h"
#include "loader/text/regex.h"
#include "loader/text/unicode.h"
#include "loader/text/utf8.h"

namespace spillway::jinja {
namespace {

using Point = utf8proc_int32_t;
constexpr Point kCapitalSigma = 0x3a3, kFinalSigma = 0x3c2, kDottedI = 0x130, kIota = 0x3b9, kIotaBelow = 0x345;

// A property of Unicode that utf8proc has no table of, and PCRE2 has.
class Property {
 public:
  explicit Property(const char* name) : pattern_(std::string("\\p{") + name + "}", "letter case", true) {}
  bool of(std::string_view character) const {
    if (first_utf8(character).step != Utf8Step::whole) return false;
    bool holds = false;
    pattern_.for_each(character, [&](size_t, size_t, bool matches) { holds = matches; });
    return holds;
  }

 private:
  Regex pattern_;
};

bool is_cased(std::string_view character) {
  static const Property property("Cased");
  if (character.size() == 1) return (character[0] | 0x20) >= 'a' && (character[0] | 0x20) <= 'z';
  return property.of(character);
}

bool is_ignorable(std::string_view character) {
  static const Property property("Case_Ignorable");
  return property.of(character);
}

void append(Point point, std::string& out) { append_utf8(static_cast<uint32_t>(point), out); }

// The full case folding: what a character becomes that has no other case of one character (sharp s, ligatures).
struct Folding {
  explicit Folding(Point point) {
    int boundary = UTF8PROC_BOUNDCLASS_START;
    const auto count = utf8proc_decompose_char(point, parts_.data(), parts_.size(), UTF8PROC_CASEFOLD, &boundary);
    if (count > 0 && count <= static_cast<utf8proc_ssize_t>(parts_.size())) count_ = static_cast<size_t>(count);
  }
  std::span<const Point> parts() const { return {parts_.data(), count_}; }

 private:
  std::array<Point, 8> parts_{};  // three at most
  size_t count_ = 0;
};

// Whether its other cases may be several characters. Unicode keeps these in SpecialCasing.txt; of every character
// listed there without a condition they are the cases of its full folding, which utf8proc has.
bool is_special(Point point) {
  return point >= 0x80 && utf8proc_category(point) != UTF8PROC_CATEGORY_LU && Folding(point).parts().size() > 1;
}

void append_upper(Point point, std::string& out) {
  if (!is_special(point)) {
    append(utf8proc_toupper(point), out);
    return;
  }
  const Folding folding(point);
  for (const Point part : folding.parts()) append(utf8proc_toupper(part), out);
}

void append_title(Point point, std::string& out) {
  const Point title = utf8proc_totitle(point);
  if (!is_special(point) || utf8proc_category(title) == UTF8PROC_CATEGORY_LT) {
    append(title, out);
    return;
  }
  bool begun = false;
  const Folding folding(point);
  for (const Point part : folding.parts()) {
    const Point changed = begun ? part : utf8proc_totitle(part);
    append(begun && part == kIota ? kIotaBelow : changed, out);
    begun = begun || changed != part;
  }
}

// A sigma ends a word: a letter with case before it, none behind it, whatever is ignorable left out (Unicode 15, table
// 3-17, Final_Sigma).
std::vector<bool> final_sigmas(const std::vector<std::string_view>& all) {
  std::vector<bool> ends(all.size());
  bool beside = false;
  for (size_t i = 0; i < all.size(); ++i) {
    ends[i] = beside;
    if (!is_ignorable(all[i])) beside = is_cased(all[i]);
  }
  beside = false;
  for (size_t i = all.size(); i-- > 0;) {
    ends[i] = ends[i] && !beside;
    if (!is_ignorable(all[i])) beside = is_cased(all[i]);
  }
  return ends;
}

// Each character by `change(place, code point, out)`; what is none stays.
template <typename Change>
std::string mapped(const std::vector<std::string_view>& all, const Change& change) {
  std::string out;
  for (size_t i = 0; i < all.size(); ++i) {
    if (first_utf8(all[i]).step == Utf8Step::whole) {
      change(i, static_cast<Point>(code_point(all[i])), out);
    } else {
      out += all[i];
    }
  }
  return out;
}

// Lower case, which knows what stands around a character.
class Lowering {
 public:
  explicit Lowering(const std::vector<std::string_view>& all) {
    if (std::find(all.begin(), all.end(), "\u03a3") != all.end()) ends_ = final_sigmas(all);
  }
  void append_lower(size_t place, Point point, std::string& out) const {
    append(point == kCapitalSigma && ends_[place] ? kFinalSigma
           : point == kDottedI                    ? 'i'
                                                  : utf8proc_tolower(point),
           out);
    if (point == kDottedI) append(0x307, out);
  }

 private:
  std::vector<bool> ends_;
};

}  // namespace

std::string upper(std::string_view text) {
  return mapped(characters(text), [](size_t, Point point, std::string& out) { append_upper(point, out); });
}

std::string lower(std::string_view text) {
  const std::vector<std::string_view> all = characters(text);
  const Lowering lowering(all);
  return mapped(all, [&](size_t i, Point point, std::string& out) { lowering.append_lower(i, point, out); });
}

std::string capitalized(std::string_view text) {
  const std::vector<std::string_view> all = characters(text);
  const Lowering lowering(all);
  return mapped(all, [&](size_t i, Point point, std::string& out) {
    i == 0 ? append_title(point, out) : lowering.append_lower(i, point, out);
  });
}

std::string titled(std::string_view text) {
  const std::vector<std::string_view> all = characters(text);
  const Lowering lowering(all);
  return mapped(all, [&](size_t i, Point point, std::string& out) {
    i > 0 && is_cased(all[i - 1]) ? lowering.append_lower(i, point, out) : append_title(point, out);
  });
}

std::string titled_words(std::string_view text) {
  const auto separates = [](std::string_view character) {
    return is_space(character) ||
           (character.size() == 1 && std::string_view("-({[<").find(character) != std::string::npos);
  };
  std::string out;
  while (!text.empty()) {
    const size_t first = first_utf8(text).bytes;
    const bool separator = separates(text.substr(0, first));
    size_t end = first;
    while (end < text.size()) {
      const size_t bytes = first_utf8(text.substr(end)).bytes;
      if (separates(text.substr(end, bytes)) != separator) break;
      end += bytes;
    }
    out += upper(text.substr(0, first)) + lower(text.substr(first, end - first));
    text.remove_prefix(end);
  }
  return out;
}

namespace {

bool all_of_case(std::string_view text, const Property& wanted, const Property& other) {
  bool found = false;
  for (const std::string_view character : characters(text)) {
    const bool whole = first_utf8(character).step == Utf8Step::whole;
    if (whole && utf8proc_category(static_cast<Point>(code_point(character))) == UTF8PROC_CATEGORY_LT) return false;
    if (other.of(character)) return false;
    found = found || wanted.of(character);
  }
  return found;
}

const Property& upper_case() {
  static const Property property("Uppercase");
  return property;
}

const Property& lower_case() {
  static const Property property("Lowercase");
  return property;
}

}  // namespace

bool is_upper(std::string_view text) { return all_of_case(text, upper_case(), lower_case()); }
bool is_lower(std::string_view text) { return all_of_case(text, lower_case(), upper_case()); }

}  // namespace spillway::jinja
