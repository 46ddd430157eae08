// The alphabet of byte-level BPE (GPT-2): each byte has a printable character, in which vocabularies are written.
#pragma once

#include <string>
#include <string_view>

namespace spillway {

// The character of a byte, in UTF-8: itself where Latin-1 prints it, else U+0100 and on ("Ġ" is the space).
std::string_view byte_symbol(unsigned char byte);

// Appends the bytes a token is written for. False, with nothing appended, when a character stands for no byte.
bool append_bytes_of_symbols(std::string_view token, std::string& bytes);

}  // namespace spillway
