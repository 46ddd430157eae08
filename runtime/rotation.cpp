#include "runtime/rotation.h"

#include <cmath>

namespace spillway {

Rotation::Rotation(const RopeSpec& rope, int context)
    : frequency_(!rope.long_frequencies.empty() && context > rope.original_context ? rope.long_frequencies
                                                                                   : rope.frequencies),
      magnitude_(rope.magnitude) {}

void Rotation::fill(int first, int count, float* table) const {
  for (int row = 0; row < count; ++row) {
    for (double frequency : frequency_) {
      const double angle = (first + row) * frequency;
      *table++ = static_cast<float>(magnitude_ * std::cos(angle));
      *table++ = static_cast<float>(magnitude_ * std::sin(angle));
    }
  }
}

}  // namespace spillway
