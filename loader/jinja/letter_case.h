// Upper, lower and title case of texts, as Python's str has them: Unicode's full mappings, of no language in
// particular.
#pragma once

#include <string>
#include <string_view>

namespace spillway::jinja {

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalized(std::string_view text);
// str.title(): a letter after anything but a letter with case is a title's; "They'Re".
std::string titled(std::string_view text);
// Jinja's filter: the first character behind white space or one of -({[<; "They're".
std::string titled_words(std::string_view text);

// At least one letter with case, and none of the other.
bool is_upper(std::string_view text);
bool is_lower(std::string_view text);

}  // namespace spillway::jinja
