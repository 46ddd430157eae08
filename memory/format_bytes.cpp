#include "memory/format_bytes.h"

#include <fmt/format.h>

#include <cmath>

namespace spillway {
namespace {

// Three significant digits, without zeros after the point that say nothing.
std::string three_digits(double value) {
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  std::string text = fmt::format("{:.{}f}", value, decimals);
  if (decimals > 0) {
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
  }
  return text;
}

std::string scaled(double value, double base, const char* const* units, int count) {
  int unit = 0;
  // What would be printed as a whole `base` takes the next unit.
  while (unit + 1 < count && std::round(value) >= base) {
    value /= base;
    ++unit;
  }
  return fmt::format("{} {}", three_digits(value), units[unit]);
}

}  // namespace

std::string format_bytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  return scaled(static_cast<double>(bytes), 1024.0, kUnits, 7);
}

std::string format_bytes_beside(uint64_t bytes, uint64_t other) {
  const std::string text = format_bytes(bytes);
  return text == format_bytes(other) ? fmt::format("{} ({} bytes)", text, bytes) : text;
}

std::string format_speed(double bytes_per_second) {
  static constexpr const char* kUnits[] = {"B/s", "kB/s", "MB/s", "GB/s", "TB/s"};
  return scaled(bytes_per_second, 1000.0, kUnits, 5);
}

}  // namespace spillway
