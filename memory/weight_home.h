// WeightHome: where each weight unit lives while the model runs. Resident units have a place in device memory, host
// units one in host memory; the others are read from the model's file each time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "memory/tier.h"
#include "memory/weight_unit.h"

namespace spillway {

struct WeightPlace {
  Tier tier = Tier::disk;
  std::byte* data = nullptr;  // null on disk
};

struct WeightHome {
  std::vector<WeightUnit> units;    // in the order a pass reads them
  std::vector<WeightPlace> places;  // one for each unit

  uint64_t bytes_in(Tier tier) const {
    uint64_t sum = 0;
    for (size_t i = 0; i < units.size(); ++i) {
      if (places[i].tier == tier) sum += units[i].bytes;
    }
    return sum;
  }
};

}  // namespace spillway
