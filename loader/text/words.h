// Words of SentencePiece's vocabularies, which write the space as U+2581.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace spillway {

inline constexpr std::string_view kSpaceMark = "\u2581";

// The text with spaces written as marks, and back.
std::string marked(std::string_view text);
std::string unmarked(std::string_view text);

// The byte that "<0x0A>" stands for; -1 when the text is no such token.
int byte_of_token(std::string_view text);

// Whether any of a vocabulary's pieces has a mark after another character. Where none has, no merge reaches over the
// beginning of a word, and words can be merged one by one.
bool mark_inside(std::string_view piece);
// Appends the words of a marked text, each beginning with its marks.
void split_words(std::string_view text, std::vector<std::string_view>& words);

}  // namespace spillway
