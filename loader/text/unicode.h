// The little of Unicode that tokenizers need beside their patterns: white space, words, normal forms.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace spillway {

// Unicode's White_Space.
bool is_white(uint32_t point);

// The code point of a well-formed character that `bytes` holds.
uint32_t code_point(std::string_view bytes);
void append_utf8(uint32_t point, std::string& out);

// Whether the character next to the edge is a letter, mark, number or connector (\w).
bool begins_with_word(std::string_view text);
bool ends_in_word(std::string_view text);

// The bytes of white space at the beginning, and the text without those at its end.
size_t white_begin(std::string_view text);
std::string_view without_white_end(std::string_view text);

enum class NormalForm { nfc, nfd, nfkc, nfkd };
// Of well-formed UTF-8 (Unicode Standard Annex 15). n log n in the longest run of combining marks, else linear.
std::string normalized(std::string_view text, NormalForm form);
// Character by character, of which each keeps its own: no rule looks at what stands around (a final sigma).
std::string lowercase(std::string_view text);

}  // namespace spillway
