#include "loader/text/byte_alphabet.h"

#include <array>
#include <cstdint>

namespace spillway {
namespace {

constexpr int kHighest = 0x143;  // the 68 bytes that do not print take U+0100 to U+0143

struct Alphabet {
  std::array<std::array<char, 2>, 256> text{};
  std::array<uint8_t, 256> length{};
  std::array<int16_t, kHighest + 1> byte{};  // by code point; -1: none

  Alphabet() {
    byte.fill(-1);
    int next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool prints = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      const int point = prints ? b : next++;
      byte[point] = static_cast<int16_t>(b);
      length[b] = point < 0x80 ? 1 : 2;
      if (point < 0x80) {
        text[b] = {static_cast<char>(point), 0};
      } else {
        text[b] = {static_cast<char>(0xc0 | point >> 6), static_cast<char>(0x80 | (point & 0x3f))};
      }
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet table;
  return table;
}

}  // namespace

std::string_view byte_symbol(unsigned char byte) { return {alphabet().text[byte].data(), alphabet().length[byte]}; }

bool append_bytes_of_symbols(std::string_view token, std::string& bytes) {
  const Alphabet& table = alphabet();
  const size_t before = bytes.size();
  const auto give_up = [&] {
    bytes.resize(before);
    return false;
  };
  for (size_t i = 0; i < token.size(); ++i) {
    int point = static_cast<unsigned char>(token[i]);
    if (point >= 0x80) {
      if ((point & 0xe0) != 0xc0 || i + 1 == token.size()) return give_up();
      const int next = static_cast<unsigned char>(token[++i]);
      if ((next & 0xc0) != 0x80) return give_up();
      point = (point & 0x1f) << 6 | (next & 0x3f);
    }
    if (point > kHighest || table.byte[point] < 0) return give_up();
    bytes += static_cast<char>(table.byte[point]);
  }
  return true;
}

}  // namespace spillway
