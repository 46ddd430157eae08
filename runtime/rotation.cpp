#include "runtime/rotation.h"

#include <cmath>

namespace spillway {

Rotation::Rotation(const ModelShape& shape, const std::vector<float>& factors) : frequency_(shape.rope_dims / 2) {
  for (size_t i = 0; i < frequency_.size(); ++i) {
    frequency_[i] = std::pow(static_cast<double>(shape.rope_base), -2.0 * static_cast<double>(i) / shape.rope_dims);
    if (!factors.empty()) frequency_[i] /= factors[i];
  }
}

void Rotation::fill(int first, int count, float* table) const {
  for (int row = 0; row < count; ++row) {
    for (double frequency : frequency_) {
      const double angle = (first + row) * frequency;
      *table++ = static_cast<float>(std::cos(angle));
      *table++ = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace spillway
